# One initdb for a whole run: the first server of each test is a copy of what the
# harness made beforehand, in $TL_TMP/template. Every further one of the same test
# is initdb's as ever: by its system identifier the extension tells places apart.

package InitOnce;

use strict;
use warnings;

use PostgreSQL::Test::Utils;

my $original = \&PostgreSQL::Test::Utils::system_or_bail;
my $template = ($ENV{TL_TMP} // '') . '/template';
my $servers = 0;

# PostgreSQL::Test::Cluster calls initdb with five arguments, the directory among
# them, unless a test has further wishes.
sub initdb_or_run
{
	my ($command, @args) = @_;

	if ($command eq 'initdb' && $servers++ == 0 && @args == 5 && -d $template)
	{
		my ($dir) = grep { m{^/} } @args;
		return $original->('cp', '-RPp', $template, $dir);
	}
	return $original->($command, @args);
}

{
	no warnings 'redefine';
	*PostgreSQL::Test::Utils::system_or_bail = \&initdb_or_run;
}

1;
