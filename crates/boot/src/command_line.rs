//! The kernel's command line: the node's own, of which the imager's is made.

use std::fmt;

use crate::error::{Error, Result};
use crate::host::Host;

/// What the kernel of x86 and of 64-bit ARM keeps of it, with the zero byte at its end (`COMMAND_LINE_SIZE`).
const LENGTH_MAX: usize = 2048;

/// What the imager does without: it names another's init, another's initramfs, a root that is not mounted or a network to boot from, memory kept
/// for a crash kernel that nobody loads, a screen that hides what happens.
const DROPPED: [&str; 20] = [
    "BOOT_IMAGE",
    "initrd",
    "init",
    "rdinit",
    "root",
    "rootfstype",
    "rootflags",
    "rootdelay",
    "rootwait",
    "ro",
    "rw",
    "resume",
    "resume_offset",
    "crashkernel",
    "quiet",
    "splash",
    "ip",
    "nfsroot",
    "BOOTIF",
    "panic",
];

/// Without a person at the console a panic must end: in a reboot, after so many seconds that it can be read.
const PANIC_SECONDS: &str = "30";

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// What stands before the first `=`, or all of it.
    pub name: String,
    /// What stands after it.
    pub value: Option<String>,
}

/// Arguments in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(pub Vec<Argument>);

impl Argument {
    /// `name=value`.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }

    fn parse(text: &str) -> Self {
        let inner = text.strip_prefix('"');
        let inner = inner.map_or(text, |inner| inner.strip_suffix('"').unwrap_or(inner));
        let Some((name, value)) = inner.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Self { name: inner.into(), value: None };
        };
        let unquoted = value.strip_prefix('"');
        let value = unquoted.map_or(value, |value| value.strip_suffix('"').unwrap_or(value));
        Self::new(name, value)
    }
}

impl fmt::Display for Argument {
    /// Without quotes.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(out, "{}={value}", self.name),
            None => out.write_str(&self.name),
        }
    }
}

impl fmt::Display for Arguments {
    /// As the kernel reads it. It knows quotes around a whole argument, and no way to write a quote itself.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, argument) in self.0.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            let text = argument.to_string();
            let quote = if text.contains(char::is_whitespace) { "\"" } else { "" };
            write!(out, "{blank}{quote}{text}{quote}")?;
        }
        Ok(())
    }
}

impl Arguments {
    /// Reads a command line as the kernel does (`next_arg` of `lib/cmdline.c`); what follows `--` is for init, not for it.
    pub fn parse(text: &str) -> Self {
        let mut arguments = Vec::new();
        let (mut word, mut in_quotes) = (String::new(), false);
        for character in text.chars().chain([' ']) {
            in_quotes ^= character == '"';
            if !character.is_whitespace() || in_quotes {
                word.push(character);
            } else if word == "--" {
                return Self(arguments);
            } else if !word.is_empty() {
                arguments.push(Argument::parse(&std::mem::take(&mut word)));
            }
        }
        if !word.is_empty() {
            arguments.push(Argument::parse(word.trim_end()));
        }
        Self(arguments)
    }

    /// Every value of `name`, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |argument| argument.name == name).filter_map(|argument| argument.value.as_deref())
    }

    /// The imager's: this machine's own, without what would lead elsewhere, and with `own` at its end. Refused where it
    /// is longer than a kernel reads, or where it holds what a boot loader cannot hand over.
    pub fn for_imager(host: &Host, own: &[Argument]) -> Result<Self> {
        let path = host.path("/proc/cmdline");
        let mut arguments = Self::parse(&host.command_line()?);
        let is_dropped =
            |name: &str| DROPPED.contains(&name) || name.starts_with("systemd.") || name.starts_with("rd.");
        arguments.0.retain(|argument| !is_dropped(&argument.name));
        arguments.0.push(Argument::new("panic", PANIC_SECONDS));
        arguments.0.extend(own.iter().cloned());
        for argument in &arguments.0 {
            // GRUB puts a backslash before both, and no kernel takes it away again.
            if argument.to_string().contains(['"', '\'', '\\', '\n']) {
                let why = format!("the argument {argument:?} holds a quote or a backslash, which boot loaders change");
                return Err(Error::unusable(&path, why));
            }
        }
        let length = arguments.to_string().len();
        if length >= LENGTH_MAX {
            let why = format!("the imager's would be {length} bytes long, and a kernel reads {}", LENGTH_MAX - 1);
            return Err(Error::unusable(&path, why));
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(command_line: &str) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("proc")).expect("made");
        std::fs::write(root.path().join("proc/cmdline"), format!("{command_line}\n")).expect("written");
        let host = Host::below(root.path());
        (root, host)
    }

    #[test]
    fn quotes_are_the_kernels() {
        let text = r#"a b=c  "d=e f" g="h i" =j k= l=m=n "o p"  -- q r"#;
        let arguments = Arguments::parse(text);
        let shown: Vec<_> =
            arguments.0.iter().map(|argument| (argument.name.as_str(), argument.value.as_deref())).collect();
        let expected = [
            ("a", None),
            ("b", Some("c")),
            ("d", Some("e f")),
            ("g", Some("h i")),
            ("=j", None),
            ("k", Some("")),
            ("l", Some("m=n")),
            ("o p", None),
        ];
        assert_eq!(shown, expected);
        let again = Arguments::parse(&arguments.to_string());
        assert_eq!(again, arguments, "what is written is read as the same");
    }

    #[test]
    fn a_quote_that_is_never_closed_ends_with_the_line() {
        assert_eq!(Arguments::parse("a \"b c").0, [Argument::parse("a"), Argument::parse("b c")]);
        assert_eq!(Arguments::parse("").0, []);
    }

    #[test]
    fn the_imager_keeps_what_the_hardware_needs_and_drops_what_leads_elsewhere() {
        let (_root, host) = machine(
            "BOOT_IMAGE=/boot/vmlinuz-6.1 root=UUID=1-2 ro quiet console=tty0 console=ttyS0,115200n8 \
             nvme_core.io_timeout=4294967295 crashkernel=256M systemd.unit=rescue.target rdinit=/bin/sh panic=0 -- single",
        );
        let own = [Argument::new("keepstate.job", "/keepstate/job")];
        let arguments = Arguments::for_imager(&host, &own).expect("made");
        assert_eq!(
            arguments.to_string(),
            "console=tty0 console=ttyS0,115200n8 nvme_core.io_timeout=4294967295 panic=30 keepstate.job=/keepstate/job"
        );
        assert_eq!(arguments.values("console").collect::<Vec<_>>(), ["tty0", "ttyS0,115200n8"]);
    }

    #[test]
    fn what_no_boot_loader_hands_over_unchanged_is_refused() {
        for odd in ["x=a\\b", "x=it's", "x=a\"b\"c"] {
            let (_root, host) = machine(odd);
            let said = Arguments::for_imager(&host, &[]).expect_err(odd).to_string();
            assert!(said.contains("boot loaders change"), "{said}");
        }
    }

    #[test]
    fn a_command_line_that_would_be_cut_off_is_refused() {
        let (_root, host) = machine(&"x".repeat(LENGTH_MAX - "panic=30 ".len() - 1));
        Arguments::for_imager(&host, &[]).expect("just fits");
        let (_root, host) = machine(&"x".repeat(LENGTH_MAX - "panic=30 ".len()));
        let said = Arguments::for_imager(&host, &[]).expect_err("one too long").to_string();
        assert!(said.contains("2048 bytes long, and a kernel reads 2047"), "{said}");
    }
}
