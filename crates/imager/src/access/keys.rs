//! Who gets in, and how the node proves that it is itself: the node's authorized keys and its SSH host keys, both taken
//! along beside the job.
//!
//! A line of `authorized_keys` (sshd(8)) may hold options, which take something away from its key. Five of them forbid what
//! nobody can do here; a line with any other is left out, and the log says so.

use std::path::Path;

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey, decode_secret_key};

use super::AUTHORIZED_KEYS;

/// Names of the files with the node's host keys, below `/etc/ssh` on the node and beside the job here; the one first that
/// clients prefer.
pub const HOST_KEYS: [&str; 3] = ["ssh_host_ed25519_key", "ssh_host_ecdsa_key", "ssh_host_rsa_key"];

/// Options that are kept here without doing anything for them.
const KEPT: [&str; 5] = ["no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"];
/// Whoever can write so many keys has them all looked at for each connection.
const KEYS_MAX: usize = 1024;
/// Each line left out is named; beyond these there is only their number.
const NAMED_MAX: usize = 8;

/// What SSH needs of keys.
#[derive(Debug)]
pub struct Keys {
    /// Who gets in.
    pub authorized: Vec<PublicKey>,
    /// The node's own.
    pub host: Vec<PrivateKey>,
}

impl Keys {
    /// Reads them from the files beside the job, and gives what is to be said of them. Without a host key one is made
    /// that lives as long as this.
    pub fn read(beside: &Path) -> (Self, Vec<String>) {
        let mut said = Vec::new();
        let text = std::fs::read_to_string(beside.join(AUTHORIZED_KEYS)).unwrap_or_default();
        let (authorized, left_out) = authorized(&text);
        said.extend(left_out.iter().take(NAMED_MAX).cloned());
        if left_out.len() > NAMED_MAX {
            said.push(format!("{} more authorized keys are left out", left_out.len() - NAMED_MAX));
        }
        let mut host = Vec::new();
        for name in HOST_KEYS {
            let Ok(text) = std::fs::read_to_string(beside.join(name)) else { continue };
            match decode_secret_key(&text, None) {
                Ok(key) => host.push(key),
                Err(error) => said.push(format!("the host key {name} cannot be used: {error}")),
            }
        }
        if host.is_empty() {
            match made() {
                Ok(key) => {
                    said.push(format!("no host key of the node is here: SSH shows {}", fingerprint(key.public_key())));
                    host.push(key);
                }
                Err(error) => said.push(format!("no host key could be made: {error}")),
            }
        }
        (Self { authorized, host }, said)
    }

    /// Whether this key gets in.
    pub fn admit(&self, key: &PublicKey) -> bool {
        self.authorized.iter().any(|one| one.key_data() == key.key_data())
    }
}

/// How a key is named to people.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn made() -> rustix::io::Result<PrivateKey> {
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    Ok(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
}

/// The keys of an `authorized_keys`, and why others of it are left out.
pub fn authorized(text: &str) -> (Vec<PublicKey>, Vec<String>) {
    let (mut keys, mut left_out) = (Vec::new(), Vec::new());
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match key(line) {
            Ok(_) if keys.len() == KEYS_MAX => {
                left_out.push(format!("authorized keys beyond {KEYS_MAX} are left out, from line {number} on"));
                break;
            }
            Ok(key) => keys.push(key),
            Err(why) => left_out.push(format!("the authorized key in line {number} is left out: {why}")),
        }
    }
    (keys, left_out)
}

/// The key of one line, if it may be used as it stands there.
fn key(line: &str) -> Result<PublicKey, String> {
    if let Ok(key) = PublicKey::from_openssh(line) {
        return usable(key);
    }
    let (options, rest) = options(line).ok_or("it is no key that can be read here")?;
    let key = PublicKey::from_openssh(rest).map_err(|_| "it is no key that can be read here")?;
    for option in options {
        let name = option.split('=').next().unwrap_or_default().to_ascii_lowercase();
        if !KEPT.contains(&option.to_ascii_lowercase().as_str()) {
            return Err(format!("its option {name:?} cannot be kept here"));
        }
    }
    usable(key)
}

/// A key whose signatures are checked here as sshd does. A security key's says whether it was touched, which nobody would
/// look at.
fn usable(key: PublicKey) -> Result<PublicKey, String> {
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. } => Ok(key),
        other => Err(format!("{other} is not taken here")),
    }
}

/// The options before a key, and what follows them. Blanks and commas between double quotes belong to an option; a quote
/// after a backslash is none (sshd(8)).
fn options(line: &str) -> Option<(Vec<&str>, &str)> {
    let (mut options, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !is_escaped => is_quoted = !is_quoted,
            ',' | ' ' | '\t' if !is_quoted => {
                options.push(&line[start..at]);
                start = at + 1;
                if c != ',' {
                    return Some((options, line[start..].trim_start()));
                }
            }
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8yGKGr2YDKM2JHoGW1yIBlBRw2EDpPjYxdFEvm7Aeb";

    #[test]
    fn plain_keys_get_in_whatever_their_comments_are() {
        let text = format!("# a comment\n\n{KEY}\n  {KEY} one\r\n{KEY} Ada L. # \"from=x\" nobody@example\n");
        let (keys, left_out) = authorized(&text);
        assert_eq!((keys.len(), left_out), (3, Vec::new()));
    }

    #[test]
    fn a_restriction_is_never_ignored() {
        for (options, named) in [
            ("from=\"192.0.2.0/24\"", "from"),
            ("command=\"/bin/echo a, b \\\" c\"", "command"),
            ("cert-authority", "cert-authority"),
            ("restrict", "restrict"),
            ("expiry-time=\"20200101\"", "expiry-time"),
            ("no-pty,FROM=\"*.example.com,!x\"", "from"),
            ("no-pty=\"x\"", "no-pty"),
            ("principals=\"a\"", "principals"),
            ("something-new", "something-new"),
            ("", "it is no key"),
        ] {
            let (keys, left_out) = authorized(&format!("{options} {KEY} ada@example"));
            let is_blank = options.is_empty();
            // Blanks before a key are nothing.
            assert_eq!(keys.len(), usize::from(is_blank), "{options}");
            assert!(is_blank || left_out[0].contains(named), "{options}: {left_out:?}");
        }
    }

    #[test]
    fn options_that_forbid_what_nobody_can_do_here_are_kept() {
        let (keys, left_out) = authorized(&format!("no-pty,no-X11-forwarding,no-port-forwarding {KEY} ada"));
        assert_eq!((keys.len(), left_out), (1, Vec::new()));
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line() {
        let security_key = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJ7k4WCBgLPMhT5HbZxIk\
                            v4PCDFoa3BQ3xDuCDlUVs1yAAAABHNzaDo= token";
        let text = format!("{KEY}\nnot a key\n\"\n{}\n{security_key}\nfrom=\"x {KEY}", &KEY[..40]);
        let (keys, left_out) = authorized(&text);
        assert_eq!(keys.len(), 1);
        let lines: Vec<_> = left_out.iter().map(|why| why.split(':').next().unwrap_or_default()).collect();
        let line = |number: u32| format!("the authorized key in line {number} is left out");
        assert_eq!(lines, [line(2), line(3), line(4), line(5), line(6)]);
    }

    #[test]
    fn without_a_host_key_one_is_made_and_its_fingerprint_said() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, said) = Keys::read(folder.path());
        assert_eq!((keys.host.len(), keys.authorized.len()), (1, 0));
        assert!(said[0].contains("SHA256:"), "{said:?}");
        std::fs::write(folder.path().join(HOST_KEYS[2]), "not a key").unwrap();
        let (other, said) = Keys::read(folder.path());
        assert!(said[0].contains(HOST_KEYS[2]), "{said:?}");
        assert_ne!(other.host[0].public_key(), keys.host[0].public_key());
    }
}
