#!/usr/bin/perl
#
# draw.pl URL SINCE FILE
#
# Draw the panels of dashboard.json as one picture (SVG), by their own queries,
# from the Prometheus at URL, since that second: what Grafana would show, for where
# there is none.  A panel whose query fails, or finds nothing, says so, and a query
# that fails is an error.

use strict;
use warnings;

use FindBin;
use HTTP::Tiny;
use JSON::PP;
use List::Util qw(max min);

my ($url, $since, $file) = @ARGV;
my $until = time;
my $step = max(1, int(($until - $since) / 75));
my $http = HTTP::Tiny->new(timeout => 30);
my ($unit_x, $unit_y) = (60, 26);
my @colours = map { "#$_" } qw(73bf69 f2cc0c 5794f2 ff9830 f2495c b877d9 8ab8ff c0d8ff 96d98d ffa6b0);
my $errors = 0;
my @svg;

sub escape
{
	my ($text) = @_;
	my %entity = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;', '"' => '&quot;');
	return $text =~ s/([&<>"])/$entity{$1}/gr;
}

sub text
{
	my ($x, $y, $size, $colour, $text, $more) = @_;
	push @svg, sprintf '<text x="%.1f" y="%.1f" font-size="%d" fill="%s" %s>%s</text>', $x, $y, $size, $colour, $more // '', escape($text);
	return;
}

sub shown
{
	my ($value, $unit) = @_;
	return 'no value' if !defined $value;
	return sprintf '%.1f %%', 100 * $value if $unit eq 'percentunit';
	my $text = $value == int($value) ? $value : sprintf abs $value < 10 ? '%.2f' : '%.1f', $value;
	return $text . ($unit eq 'ops' ? '/s' : $unit eq 's' ? ' s' : '');
}

# The series of a query: each its name and a list of [time, value]
sub series
{
	my ($target) = @_;
	my $query = $target->{expr} =~ s/\$__rate_interval/20s/gr =~ s/\$(?:server|datname)\b/.*/gr;
	my $answer = $http->get("$url/api/v1/query_range?" . $http->www_form_urlencode({ query => $query, start => $since, end => $until, step => $step }));
	unless ($answer->{success})
	{
		warn "$query: $answer->{content}\n";
		$errors++;
		return;
	}
	my @series;
	foreach my $one (@{ decode_json($answer->{content})->{data}{result} })
	{
		my $name = $target->{legendFormat} =~ s/\{\{(\w+)\}\}/$one->{metric}{$1} \/\/ ''/ger;
		push @series, [ $name, [ grep { $_->[1] =~ /^[-+.\de]+$/ } @{ $one->{values} } ] ];
	}
	return grep { @{ $_->[1] } } @series;
}

sub draw_stat
{
	my ($panel, $x, $y, $w, $h, @series) = @_;
	my $defaults = $panel->{fieldConfig}{defaults};
	my $limit = $defaults->{thresholds} ? $defaults->{thresholds}{steps}[1]{value} : undef;

	# what is no more is not shown
	@series = grep { $_->[1][-1][0] > $until - 3 * $step - 5 } @series;
	@series = ([ 'none', [] ]) unless @series;
	my $high = ($h - 26) / @series;
	foreach my $i (0 .. $#series)
	{
		my ($name, $points) = @{ $series[$i] };
		my $value = @$points ? $points->[-1][1] : undef;
		my $mapped = $defaults->{mappings} && defined $value ? $defaults->{mappings}[0]{options}{ $value + 0 } : undef;
		my $bad = $mapped ? $mapped->{color} eq 'red' : defined $limit && defined $value && $value >= $limit;
		my $top = $y + 24 + $i * $high;
		push @svg, sprintf '<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>', $x + 4, $top, $w - 8, $high - 3, $bad ? '#c4162a' : '#37872d';
		text($x + $w / 2, $top + $high / 2 + 4, $high > 50 ? 20 : 12, '#fff', $mapped ? $mapped->{text} : defined $value ? shown($value, $defaults->{unit}) : '-', 'text-anchor="middle"');
		text($x + $w / 2, $top + $high - 8, 10, '#fff', $name, 'text-anchor="middle"');
	}
	return;
}

sub draw_series
{
	my ($panel, $x, $y, $w, $h, @series) = @_;
	my $defaults = $panel->{fieldConfig}{defaults};
	my $stacked = $defaults->{custom}{stacking}{mode} eq 'normal';
	my $limit = $defaults->{thresholds} ? $defaults->{thresholds}{steps}[1]{value} : undef;
	my ($left, $right, $top, $bottom) = ($x + 46, $x + $w - 8, $y + 28, $y + $h - 44);
	my (%base, @lines);

	return text($x + $w / 2, $y + $h / 2, 12, '#888', 'nothing in this time', 'text-anchor="middle"') unless @series;
	foreach my $one (@series)
	{
		my @line = map { [ $_->[0], $_->[1], $stacked ? $base{ $_->[0] } += $_->[1] : $_->[1] ] } @{ $one->[1] };
		push @lines, [ $one->[0], \@line ];
	}
	my $most = max(map { $_->[2] } map { @{ $_->[1] } } @lines) || 1;
	$most = max($most, $limit) if defined $limit && $most > $limit / 3;
	$most *= 1.08;
	my $at_x = sub { $left + ($right - $left) * ($_[0] - $since) / max(1, $until - $since) };
	my $at_y = sub { $bottom - ($bottom - $top) * $_[0] / $most };
	foreach my $part (0, 0.5, 1)
	{
		push @svg, sprintf '<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#333"/>', $left, $right, ($at_y->($part * $most)) x 2;
		text($left - 4, $at_y->($part * $most) + 4, 9, '#999', shown($part * $most, $defaults->{unit}), 'text-anchor="end"');
	}
	text($at_x->($since + $_ * ($until - $since)), $bottom + 11, 9, '#999', sprintf('%d:%02d', int($_ * ($until - $since) / 60), $_ * ($until - $since) % 60), 'text-anchor="middle"') foreach 0, 0.5, 1;
	push @svg, sprintf '<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#f2495c" stroke-dasharray="4 3"/>', $left, $right, ($at_y->($limit)) x 2 if defined $limit && $limit <= $most;

	my ($legend_x, $legend_y) = ($x + 8, $y + $h - 20);
	foreach my $i (reverse 0 .. $#lines)
	{
		my $colour = $colours[ $i % @colours ];
		my ($last, $path) = (undef, '');
		foreach my $point (@{ $lines[$i][1] })
		{
			# where a series has a hole, the line has one
			$path .= sprintf '%s%.1f %.1f', defined $last && $point->[0] - $last <= 2 * $step ? 'L' : 'M', $at_x->($point->[0]), $at_y->($point->[2]);
			$last = $point->[0];
		}
		push @svg, qq{<path d="$path" fill="none" stroke="$colour" stroke-width="1.3"/>};
	}
	foreach my $i (0 .. $#lines)
	{
		my $label = "$lines[$i][0]: " . shown($lines[$i][1][-1][1], $defaults->{unit});
		my $width = 14 + 5.4 * length $label;
		($legend_x, $legend_y) = ($x + 8, $legend_y + 12) if $legend_x > $x + 8 && $legend_x + $width > $x + $w;
		push @svg, sprintf '<rect x="%.1f" y="%.1f" width="8" height="3" fill="%s"/>', $legend_x, $legend_y - 4, $colours[ $i % @colours ];
		text($legend_x + 11, $legend_y, 9, '#ccc', $label);
		$legend_x += $width + 6;
	}
	return;
}

open my $in, '<', "$FindBin::RealBin/dashboard.json" or die $!;
my $dashboard = decode_json(do { local $/; <$in> });
my $height = 0;
foreach my $panel (@{ $dashboard->{panels} })
{
	my ($x, $y, $w, $h) = ($panel->{gridPos}{x} * $unit_x, 40 + $panel->{gridPos}{y} * $unit_y, $panel->{gridPos}{w} * $unit_x, $panel->{gridPos}{h} * $unit_y);

	$height = max($height, $y + $h);
	push @svg, sprintf '<rect x="%d" y="%d" width="%d" height="%d" fill="#181b1f" stroke="#2c3235"/>', $x + 2, $y + 2, $w - 4, $h - 4;
	text($x + 10, $y + 18, 12, '#eee', $panel->{title});
	my @series = map { series($_) } @{ $panel->{targets} };
	$panel->{type} eq 'stat' ? draw_stat($panel, $x, $y, $w, $h, @series) : draw_series($panel, $x, $y, $w, $h, @series);
}
text(10, 26, 17, '#eee', "$dashboard->{title}: " . ($until - $since) . ' seconds');
open my $svg, '>:encoding(UTF-8)', $file or die "$file: $!";
print $svg sprintf('<svg xmlns="http://www.w3.org/2000/svg" width="1440" height="%d" font-family="sans-serif"><rect width="100%%" height="100%%" fill="#111217"/>', $height + 6), "\n";
print $svg "$_\n" foreach @svg;
print $svg "</svg>\n";
close $svg;
exit($errors ? 1 : 0);
