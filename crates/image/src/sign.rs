//! Keys and signatures in minisign's formats, so that `minisign -V` checks by hand what is checked here.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, PublicKeyBox, SecretKeyBox, SignatureBox};

/// Largest key or signature file that is read; real ones have some 300 bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A secret key: three names of two bytes (signature, key derivation, checksum), salt 32, two limits of 8, id 8, key 64,
/// checksum 32.
const SECRET_KEY_BYTES: usize = 158;
/// The name of no key derivation: the key is not encrypted.
const KDF_NONE: [u8; 2] = [0, 0];

/// A key's id: 16 hexadecimal digits, as minisign shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl KeyId {
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without leading zeros, as minisign itself shows it.
        write!(f, "{:X}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Why a key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file of the name is there: keys are never overwritten.
    #[error("{} exists already, and a key that is overwritten is lost: choose another name", .0.display())]
    Exists(PathBuf),
    /// Not a key of this kind.
    #[error("{path} holds no {kind} key of minisign's: {why}")]
    Malformed {
        /// Where it was read from.
        path: String,
        /// `secret` or `public`.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The key needs a password, and none was given or it is wrong.
    #[error("the key {path} cannot be opened: {why}")]
    Password {
        /// Where it was read from.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The signature could not be made.
    #[error("signing with key {id}: {why}")]
    Sign {
        /// With which key.
        id: KeyId,
        /// Why not.
        why: String,
    },
}

/// A secret key, ready to sign.
pub struct SecretKey {
    key: minisign::SecretKey,
    public: minisign_verify::PublicKey,
    id: KeyId,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id)
    }
}

impl SecretKey {
    /// Reads a secret key; `password` is asked only for an encrypted one.
    pub fn read(path: &Path, password: impl FnOnce() -> io::Result<Option<String>>) -> Result<Self, Error> {
        let name = path.display().to_string();
        let malformed =
            |why: &dyn fmt::Display| Error::Malformed { path: name.clone(), kind: "secret", why: why.to_string() };
        let text = read_text(path)?;
        let bytes = text.lines().nth(1).and_then(|line| Base64::decode_to_vec(line.trim(), None).ok());
        let bytes =
            bytes.filter(|bytes| bytes.len() == SECRET_KEY_BYTES).ok_or_else(|| malformed(&"it is another file"))?;
        let key = if bytes[2..4] == KDF_NONE {
            // Not by way of the box: that insists on a checksum, which the real tool leaves empty in such keys.
            minisign::SecretKey::from_bytes(&bytes).map_err(|why| malformed(&why))?
        } else {
            let failed = |why: String| Error::Password { path: name.clone(), why };
            let password = password().map_err(|why| failed(why.to_string()))?;
            let password = password.ok_or_else(|| failed("it is encrypted and needs a password".into()))?;
            let boxed = SecretKeyBox::from_string(&text).map_err(|why| malformed(&why))?;
            boxed.into_secret_key(Some(password)).map_err(|why| failed(why.to_string()))?
        };
        let key = Self::from_key(key).ok_or_else(|| malformed(&"it has no id"))?;
        // A damaged key would sign, and nobody could check it.
        let is_sound = key.sign(b"", "").is_ok_and(|signature| key.has_signed(b"", &signature));
        if is_sound { Ok(key) } else { Err(malformed(&"its two halves do not belong together")) }
    }

    fn from_key(key: minisign::SecretKey) -> Option<Self> {
        let id = KeyId::of(key.keynum())?;
        let public = minisign::PublicKey::from_secret_key(&key).ok()?;
        let public = minisign_verify::PublicKey::from_base64(&public.to_base64()).ok()?;
        Some(Self { key, public, id })
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The text of a signature file for `bytes`. The trusted comment, one line, is signed too.
    pub fn sign(&self, bytes: &[u8], trusted_comment: &str) -> Result<String, Error> {
        let untrusted = format!("signature of key {} by keepstate", self.id);
        let signature = minisign::sign(None, &self.key, bytes, Some(trusted_comment), Some(&untrusted));
        Ok(signature.map_err(|why| Error::Sign { id: self.id, why: why.to_string() })?.into_string())
    }

    /// Whether `signature` is this key's for `bytes`.
    pub fn has_signed(&self, bytes: &[u8], signature: &str) -> bool {
        let signature = minisign_verify::Signature::decode(signature);
        signature.is_ok_and(|signature| self.public.verify(bytes, &signature, true).is_ok())
    }
}

/// A public key, to check with.
#[derive(Clone, Debug)]
pub struct PublicKey {
    key: minisign_verify::PublicKey,
    id: KeyId,
}

impl PublicKey {
    /// Reads all keys of a file: minisign's, or several of them one after the other.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, Error> {
        Self::from_text(&path.display().to_string(), &read_text(path)?)
    }

    /// All keys in a text; `path` is where it comes from, for errors.
    pub fn from_text(path: &str, text: &str) -> Result<Vec<Self>, Error> {
        let malformed = |why: String| Error::Malformed { path: path.to_owned(), kind: "public", why };
        let lines = text.lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with("untrusted comment:")).map(|line| {
            let id = minisign::PublicKey::from_base64(line).ok().and_then(|key| KeyId::of(key.keynum()));
            let key = minisign_verify::PublicKey::from_base64(line).map_err(|why| malformed(why.to_string()))?;
            Ok(Self { key, id: id.ok_or_else(|| malformed("it has no id".into()))? })
        });
        let keys: Vec<Self> = keys.collect::<Result<_, Error>>()?;
        if keys.is_empty() { Err(malformed("it is empty".into())) } else { Ok(keys) }
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` is this key's for `bytes`. As the real tool does, this takes signatures of its older kind
    /// too, which sign the bytes and not their hash.
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &minisign_verify::Signature) -> bool {
        self.key.verify(bytes, signature, true).is_ok()
    }
}

/// The id of the key that a signature file claims to be of, and the signature.
pub(crate) fn parse_signature(text: &str) -> Result<(KeyId, minisign_verify::Signature), String> {
    // Four lines and nothing else: what stands behind a signed part is covered by nothing.
    if text.lines().count() != 4 {
        return Err(format!("a signature has 4 lines, this has {}", text.lines().count()));
    }
    let signature = minisign_verify::Signature::decode(text).map_err(|why| why.to_string())?;
    let id = SignatureBox::from_string(text).map_err(|why| why.to_string())?;
    let id = KeyId::of(id.keynum()).ok_or("it has no key id")?;
    Ok((id, signature))
}

/// Makes a new pair of keys, `<prefix>.key` (readable by its owner only) and `<prefix>.pub`, and gives their id and
/// paths. Neither may exist.
pub fn new_key(prefix: &Path, password: Option<String>) -> Result<(KeyId, PathBuf, PathBuf), Error> {
    let with_extension = |extension: &str| {
        let mut path = prefix.as_os_str().to_owned();
        path.push(extension);
        PathBuf::from(path)
    };
    let (secret_path, public_path) = (with_extension(".key"), with_extension(".pub"));
    for path in [&secret_path, &public_path] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::Exists(path.clone()));
        }
    }
    let made = |why: minisign::PError| Error::Io {
        doing: "making a key for",
        path: secret_path.clone(),
        source: io::Error::other(why.to_string()),
    };
    let KeyPair { pk, sk } = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    }
    .map_err(made)?;
    let id = KeyId::of(pk.keynum()).expect("a key id has eight bytes");
    let secret = sk.to_box(Some(&format!("keepstate secret key {id}"))).map_err(made)?.into_string();
    let public = PublicKeyBox::into_string(pk.to_box().map_err(made)?);
    create(&secret_path, 0o600, &secret)?;
    create(&public_path, 0o644, &public)?;
    Ok((id, secret_path, public_path))
}

/// Writes a new file, durable and never over another.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => Error::Io { doing: "writing", path: path.to_owned(), source },
    })
}

fn read_text(path: &Path) -> Result<String, Error> {
    let read = || {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, FILE_BYTES_MAX), &mut text)?;
        Ok(text)
    };
    read().map_err(|source| Error::Io { doing: "reading the key", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
