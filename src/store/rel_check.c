/*
 * rel_check.c
 *		Are our tables as the install script made them?
 *
 * A DBA can change our tables.  Rows are written without SQL, so what SQL would
 * do for the DBA's changes does not happen; the checks refuse changes that the
 * functions cannot honour, with SQLSTATE 55000.  base/catalog.c checks our
 * indexes likewise.  A backend checks a table when it opens it first, and again
 * after an invalidation.
 */
#include "base/turn_liveness.h"

#include "executor/executor.h"
#include "utils/rel.h"

#include "store/rel.h"

/* What the newest install script makes: columns and CHECK constraints. */
static const struct
{
	int			natts;
	int			nchecks;
}			shapes[TL_NTABLES] = {
	[TL_TURN] = {22, 8},
	[TL_REPLY] = {14, 7},
	[TL_DELIVERY] = {11, 5},
	[TL_LATE_REPLY] = {8, 3},
};

/*
 * The generation of the catalog at which a table was last found to be as
 * installed.
 */
typedef struct TlChecked
{
	Oid			table;
	uint32		generation;
} TlChecked;

static TlChecked readable[TL_NTABLES];
static TlChecked writable[TL_NTABLES];

static void refuse(Relation rel, const char *what, const char *hint) pg_attribute_noreturn();
static bool is_current(const TlChecked *checked, Relation rel);
static void check_readable(TlTable table, Relation rel);
static void check_writable(TlTable table, Relation rel);

/* A table of ours is not as the install script made it. */
static void
refuse(Relation rel, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" %s", TL_SCHEMA, RelationGetRelationName(rel), what),
			 errhint("%s", hint)));
}

/*
 * Every column of ours is there.  Only superusers own the table, because the
 * worker, which is one, evaluates expressions of the owner's indexes.
 */
static void
check_readable(TlTable table, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	uint32		generation = tl_catalog_generation();
	int			i;

	if (desc->natts < shapes[table].natts)
		refuse(rel, "has fewer columns than the library knows",
			   "Bring the extension up to date with ALTER EXTENSION " TL_EXTENSION " UPDATE.");
	for (i = 0; i < shapes[table].natts; i++)
		if (TupleDescAttr(desc, i)->attisdropped)
			refuse(rel, "lacks a column that the extension created",
				   "Restore it from a backup, or create the extension anew.");
	if (!superuser_arg(rel->rd_rel->relowner))
		refuse(rel, "is not owned by a superuser",
			   "Give it back to the owner of the extension with ALTER TABLE ... OWNER TO.");
	readable[table].table = RelationGetRelid(rel);
	readable[table].generation = generation;
}

/*
 * The table asks nothing of a row that a direct write does not do.  NOT NULL is
 * checked for each row, in rel.c.
 */
static void
check_writable(TlTable table, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	uint32		generation = tl_catalog_generation();
	int			i;

	for (i = shapes[table].natts; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attgenerated != '\0' && !TupleDescAttr(desc, i)->attisdropped)
			refuse(rel, "has a generated column, which the extension does not compute",
				   "Drop the column, or compute it in a view.");
	if (desc->constr != NULL && desc->constr->num_check > shapes[table].nchecks)
		refuse(rel, "has a CHECK constraint that the extension does not know",
			   "Drop the constraint: the extension would write rows that violate it.");
	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	CheckCmdReplicaIdentity(rel, CMD_DELETE);
	writable[table].table = RelationGetRelid(rel);
	writable[table].generation = generation;
}

/* Was this table checked, and has nothing changed since? */
static bool
is_current(const TlChecked *checked, Relation rel)
{
	return checked->table == RelationGetRelid(rel) &&
		checked->generation == tl_catalog_generation();
}

int
tl_rel_check(TlTable table, Relation rel, bool write)
{
	if (!is_current(&readable[table], rel))
		check_readable(table, rel);
	if (write && !is_current(&writable[table], rel))
		check_writable(table, rel);
	return shapes[table].natts;
}

/*
 * With an exclusion constraint a lost race would be 23P01, and a deferrable
 * constraint wants a list of rows to check again, and a direct write keeps
 * none.
 */
void
tl_rel_check_index(Relation rel, Relation index)
{
	if (index->rd_index->indisexclusion || !index->rd_index->indimmediate)
		refuse(rel, "has an exclusion constraint or a deferrable unique constraint",
			   "Drop the constraint, or make a unique one NOT DEFERRABLE.");
}
