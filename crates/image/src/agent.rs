//! Where our agent stands in an image, and what starts it there: `image bake --with-agent` puts it so, and the facts of any
//! image say whether it is so.
//!
//! Either init does the same. The gate runs before whatever starts datastores, the trial when everything is up.

/// Where systemd's program stands below a root. A tree that has it is started by it, or by sysvinit if it has that, too.
pub const SYSTEMD: [&str; 2] = ["usr/lib/systemd/systemd", "lib/systemd/systemd"];
/// The unit of the trial, where systemd starts it.
pub(crate) const WANTED: &str = "etc/systemd/system/multi-user.target.wants/keepstate-agent.service";
/// What sysvinit starts, line by line (`inittab(5)`).
pub(crate) const INITTAB: &str = "etc/inittab";

/// Before the first service of a runlevel. init waits for it, so no order among scripts has to be computed or kept.
const GATE: &str = "ksg:2345:wait:/usr/bin/keepstate node gate";
/// After the last one.
const TRIAL: &str = "kst:2345:once:/usr/bin/keepstate node trial";

/// The same inittab with the gate and the trial in it; none if it waits for nothing in the runlevels of servers, as busybox's,
/// which knows no runlevels.
pub(crate) fn added_to(inittab: &str) -> Option<String> {
    let mut lines: Vec<&str> = inittab.lines().filter(|line| ![GATE, TRIAL].contains(line)).collect();
    let first = lines.iter().position(|line| starts_services(line))?;
    let last = lines.iter().rposition(|line| starts_services(line))?;
    lines.insert(last + 1, TRIAL);
    lines.insert(first, GATE);
    Some(lines.join("\n") + "\n")
}

/// Whether an inittab starts the agent.
pub(crate) fn is_in(inittab: &str) -> bool {
    inittab.lines().any(|line| line == TRIAL)
}

/// Whether init waits for what this line starts in a runlevel of servers: the script that starts their services.
fn starts_services(line: &str) -> bool {
    let mut fields = line.split(':');
    let (id, runlevels, action) = (fields.next(), fields.next(), fields.next());
    id.is_some_and(|id| !id.starts_with('#'))
        && runlevels.is_some_and(|runlevels| runlevels.contains(['2', '3', '4', '5']))
        && action == Some("wait")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\n~~:S:wait:/sbin/sulogin --force\n\
                          l0:0:wait:/etc/init.d/rc 0\nl1:1:wait:/etc/init.d/rc 1\n#l2:2:wait:/etc/init.d/old 2\n\
                          l2:2:wait:/etc/init.d/rc 2\nl5:5:wait:/etc/init.d/rc 5\nl6:6:wait:/etc/init.d/rc 6\n\
                          1:2345:respawn:/sbin/getty 38400 tty1\n";

    #[test]
    fn the_gate_stands_before_all_services_and_the_trial_after_them() {
        let text = added_to(DEBIAN).unwrap();
        let between = "\nksg:2345:wait:/usr/bin/keepstate node gate\nl2:2:wait:/etc/init.d/rc 2\n\
                       l5:5:wait:/etc/init.d/rc 5\nkst:2345:once:/usr/bin/keepstate node trial\nl6:6:wait:";
        assert!(text.contains(between), "{text}");
        assert_eq!(text.lines().count(), DEBIAN.lines().count() + 2);
        assert!(is_in(&text) && !is_in(DEBIAN) && !is_in(&text.replace("kst:", "#kst:")));
        assert_eq!(added_to(&text).unwrap(), text, "once is enough");
    }

    #[test]
    fn an_inittab_without_runlevels_is_not_added_to() {
        for other in
            ["", "::sysinit:/etc/init.d/rcS\n::wait:/sbin/x\n::respawn:-/bin/sh\n", "l6:6:wait:/etc/init.d/rc 6\n"]
        {
            assert_eq!(added_to(other), None, "{other}");
        }
    }
}
