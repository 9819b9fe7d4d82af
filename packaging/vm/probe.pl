# Runs in the sandbox of the service (its unit, with this as ExecStart) and says on each SIGHUP what it can reach.
# One line each, `probe NAME: open` or `probe NAME: why not`.
use strict;
use warnings;
use Fcntl;
$| = 1;

my $hup = 1;
$SIG{HUP} = sub { $hup = 1 };

sub report {
    for my $path (qw(/dev/ttyS1 /dev/ttyUSB0 /dev/i2c-0 /dev/vda /dev/mem /dev/rtc0)) {
        my $open = sysopen(my $file, $path, O_RDWR | O_NONBLOCK | O_NOCTTY);
        print "probe $path: ", ($open ? "open" : "$!"), "\n";
    }
    print "probe /etc: ", (sysopen(my $file, "/etc/probe", O_WRONLY | O_CREAT) ? "open" : "$!"), "\n";
    print "probe boot_id: ", (sysopen(my $id, "/proc/sys/kernel/random/boot_id", O_RDONLY) ? "open" : "$!"), "\n";
    # clock_adjtime(CLOCK_REALTIME, modes): 0 asks, ADJ_OFFSET (1) sets. The number of the call on x86-64.
    for my $case (["ask", 0], ["set", 1]) {
        my $timex = pack("L x204", $case->[1]);
        my $answer = syscall(305, 0, $timex);
        print "probe clock-$case->[0]: ", ($answer >= 0 ? "open" : "$!"), "\n";
    }
    print "probe end\n";
}

while (1) {
    if ($hup) { $hup = 0; report(); }
    select(undef, undef, undef, 0.2);
}
