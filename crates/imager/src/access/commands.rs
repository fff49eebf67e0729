//! What an operator may say, and what it means. There is no shell: words are compared, nothing is run.

use super::files::Wish;

/// What is said to whoever asks, or says something else.
pub(super) const HELP: &str = "\
This is the Keepstate imager. It takes these commands, and there is no shell:
  status [--json]   what is being done, how far it is, and how long it may take
  log [--follow]    all that was said; with --follow also what will be
  abort             back into the old OS; only before the disk is written to
  reboot            leave by a restart, now; only while the disk boots
  help              this
Exit codes: 0 done, 1 failed, 2 no such command, 3 refused.
";

/// Exit codes, as of the whole program.
pub(super) mod code {
    pub(in crate::access) const DONE: u32 = 0;
    pub(in crate::access) const FAILED: u32 = 1;
    pub(in crate::access) const WRONG_USAGE: u32 = 2;
    pub(in crate::access) const REFUSED: u32 = 3;
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// How the work stands.
    Status { json: bool },
    /// The log.
    Log { follow: bool },
    /// PID 1 is asked for something.
    Wish(Wish),
    /// What may be said.
    Help,
}

impl Command {
    /// What these words mean, if they mean anything.
    pub(super) fn parse(words: &[u8]) -> Option<Self> {
        let words: Vec<_> = std::str::from_utf8(words).ok()?.split_whitespace().collect();
        Some(match words[..] {
            ["status"] => Self::Status { json: false },
            ["status", "--json"] => Self::Status { json: true },
            ["log"] => Self::Log { follow: false },
            ["log", "--follow"] => Self::Log { follow: true },
            ["abort"] => Self::Wish(Wish::Abort),
            ["reboot"] => Self::Wish(Wish::Reboot),
            ["help" | "--help"] => Self::Help,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_what_the_help_lists_and_nothing_else_is_one() {
        for (words, meant) in [
            ("status", Some(Command::Status { json: false })),
            (" status  --json ", Some(Command::Status { json: true })),
            ("log", Some(Command::Log { follow: false })),
            ("log --follow", Some(Command::Log { follow: true })),
            ("abort", Some(Command::Wish(Wish::Abort))),
            ("reboot", Some(Command::Wish(Wish::Reboot))),
            ("help", Some(Command::Help)),
            ("", None),
            ("sh", None),
            ("status; sh", None),
            ("log /etc/shadow", None),
            ("ABORT", None),
            ("abort now", None),
            ("$(reboot)", None),
        ] {
            assert_eq!(Command::parse(words.as_bytes()), meant, "{words}");
        }
        assert_eq!(Command::parse(b"status\xff"), None);
    }
}
