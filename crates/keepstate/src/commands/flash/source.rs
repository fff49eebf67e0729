//! What IMAGE means: an image in a store, a packed directory, or a bare `.lz4`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use image::sign::PublicKey;
use image::{Image, MANIFEST, SIGNATURE, Trust};
use jiff::Timestamp;
use model::manifest::BYTES_MAX;
use model::{ImageName, Manifest};
use store::{Local, Transfer};

use crate::context::StoreArgs;
use crate::exit::WrongUsage;

/// Largest signature that is read: minisign's are some 300 bytes.
const SIGNATURE_BYTES_MAX: u64 = 64 << 10;

/// Which image, and whom to believe.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// The image: name@version, name:channel, a packed directory, or a bare .lz4 file or object of a whole disk
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// SHA-256 that a bare .lz4 must have once it is unpacked
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<model::Sha256>,
    /// Where a bare .lz4 is unpacked and packed again before the disk is touched
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(crate) scratch: PathBuf,
}

/// Whom to believe.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TrustArgs {
    /// A public key file; the image must be signed with one of the keys that are named
    #[arg(long, value_name = "PUB", env = "KEEPSTATE_TRUST", value_delimiter = ':')]
    pub(crate) trust: Vec<PathBuf>,
    /// Take an image whoever made it, signed or not, expired or not; it is still checked against its own manifest
    #[arg(long, conflicts_with = "trust")]
    pub(crate) insecure: bool,
}

impl TrustArgs {
    /// The keys, or the explicit wish for none.
    pub(crate) fn open(&self) -> Result<Trust> {
        if self.insecure {
            return Ok(Trust::Anything);
        }
        if self.trust.is_empty() {
            let why = "whose images are to be believed? Name a public key with --trust ci.pub (or in KEEPSTATE_TRUST), \
                       or say --insecure";
            return Err(WrongUsage(why.into()).into());
        }
        let mut keys = Vec::new();
        for path in &self.trust {
            keys.extend(PublicKey::read_all(path).with_context(|| format!("reading the key {}", path.display()))?);
        }
        Ok(Trust::Keys(keys))
    }
}

/// An image that was found and is believed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) image: Image,
    /// Store URL or directory, and folder in it: for logs.
    pub(crate) from: (String, String),
    /// The manifest as it was signed, and its signature.
    documents: Vec<(&'static str, Vec<u8>)>,
    /// Where a bare image was unpacked, for as long as it is needed.
    _scratch: Option<tempfile::TempDir>,
}

impl Opened {
    /// Puts everything about the image but its payload into `directory`, so that it can be opened there.
    pub(crate) fn copy_documents(&self, directory: &Path) -> Result<()> {
        for (name, bytes) in &self.documents {
            let path = directory.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        }
        let manifest = self.image.manifest();
        for table in [&manifest.chunk_table, &manifest.block_table] {
            let key = key(self.image.folder(), &table.object);
            let bytes = self.image.transfer().get(&key, 0..table.size)?;
            let path = directory.join(&table.object);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

impl ImageArgs {
    /// Finds the image and checks its manifest.
    pub(crate) fn open(&self) -> Result<Opened> {
        let path = Path::new(&self.image);
        if path.join(MANIFEST).is_file() {
            return open_packed(path, &self.trust.open()?);
        }
        if self.image.ends_with(".lz4") {
            return self.open_bare();
        }
        let name: ImageName =
            self.image.parse().map_err(|error: model::name::NameError| WrongUsage(error.to_string()))?;
        let trust = self.trust.open()?;
        let transfer = self.store.transfer()?;
        let _ = (transfer, trust);
        anyhow::bail!("{name}: wait for the repository")
    }

    fn open_bare(&self) -> Result<Opened> {
        let scratch = tempfile::tempdir_in(&self.scratch)
            .with_context(|| format!("making a directory in {}", self.scratch.display()))?;
        let (transfer, key) = match self.image.rsplit_once('/') {
            Some((folder, key)) if self.image.contains("://") => {
                (Transfer::new(store::open(folder).context("the store cannot be opened")?), key.to_owned())
            }
            _ => {
                let path = Path::new(&self.image);
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                (Transfer::new(Arc::new(Local::new(folder))), name.to_owned())
            }
        };
        let _ = (transfer, key, scratch);
        anyhow::bail!("wait for bare")
    }
}

/// Opens a directory that `image pack` made, or a stage that holds all but the payload.
pub(crate) fn open_packed(path: &Path, trust: &Trust) -> Result<Opened> {
    let what = path.display().to_string();
    let transfer = Transfer::new(Arc::new(Local::new(path)));
    let documents = documents(&transfer, "").with_context(|| format!("reading the image in {what}"))?;
    let bytes = documents.first().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
    let signature = documents.get(1).map(|(_, bytes)| String::from_utf8_lossy(bytes));
    trust.check_signature(&what, bytes, signature.as_deref())?;
    let manifest = Manifest::from_bytes(bytes).with_context(|| format!("reading the manifest in {what}"))?;
    trust.check_expiry(&what, manifest.expires, Timestamp::now())?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let from = (absolute.display().to_string(), String::new());
    let image = Image::open(transfer, "", manifest)?;
    Ok(Opened { image, from, documents, _scratch: None })
}

/// The manifest and, where there is one, its signature, as stored.
fn documents(transfer: &Transfer, folder: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let manifest = transfer.get_all(&key(folder, MANIFEST), BYTES_MAX as u64)?;
    let mut documents = vec![(MANIFEST, manifest.to_vec())];
    match transfer.get_all(&key(folder, SIGNATURE), SIGNATURE_BYTES_MAX) {
        Ok(signature) => documents.push((SIGNATURE, signature.to_vec())),
        Err(error) if error.kind == store::Kind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(documents)
}

fn key(folder: &str, object: &str) -> String {
    if folder.is_empty() { object.to_owned() } else { format!("{folder}/{object}") }
}
