//! What IMAGE means: an image in a store, a packed directory, or a bare `.lz4`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use image::reference::Reference;
use image::repository::{self, Checked};
use image::sign::PublicKey;
use image::{Image, MANIFEST, SIGNATURE, Trust};
use jiff::Timestamp;
use model::name::NameError;
use store::{Local, Store, Transfer};

use super::staged::Staged;
use crate::context::StoreArgs;
use crate::exit::WrongUsage;

/// Where images are, and whom to believe.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ImageArgs {
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
    /// Take an image whoever made it, signed or not, expired or not, whatever --trust says; it is still checked against
    /// its own manifest
    #[arg(long)]
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
    fn new(transfer: Transfer, from: String, checked: &Checked) -> Result<Self> {
        let mut documents = vec![(MANIFEST, checked.bytes.to_vec())];
        documents.extend(checked.signature.as_ref().map(|signature| (SIGNATURE, signature.clone().into_bytes())));
        let image = checked.open(transfer)?;
        Ok(Self { image, from: (from, checked.folder.clone()), documents, _scratch: None })
    }

    /// Puts everything about the image but its payload into `directory`, so that it can be opened there.
    pub(crate) fn copy_documents(&self, directory: &Path) -> Result<()> {
        for (name, bytes) in &self.documents {
            let path = directory.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        }
        let manifest = self.image.manifest();
        for table in [&manifest.chunk_table, &manifest.block_table] {
            let folder = self.image.folder();
            let key = if folder.is_empty() { table.object.clone() } else { format!("{folder}/{}", table.object) };
            let bytes = self.image.transfer().get(&key, 0..table.size)?;
            let path = directory.join(&table.object);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

impl ImageArgs {
    /// Finds the image that a person named, and checks its manifest.
    pub(crate) fn open(&self, image: &str) -> Result<Opened> {
        let reference: Reference = image.parse().map_err(|error: NameError| WrongUsage(error.to_string()))?;
        match reference {
            Reference::Packed(path) => open_packed(&path, &self.trust.open()?),
            Reference::Bare(name) => self.open_bare(&name),
            Reference::Named(name) => {
                let trust = self.trust.open()?;
                let transfer = self.store.transfer()?;
                let checked = repository::resolve(&transfer, &name, &trust, Timestamp::now())?;
                let from = self.store.store.clone().unwrap_or_default();
                Opened::new(transfer, from, &checked)
            }
        }
    }

    fn open_bare(&self, image: &str) -> Result<Opened> {
        let scratch = tempfile::tempdir_in(&self.scratch)
            .with_context(|| format!("making a directory in {}", self.scratch.display()))?;
        let (store, key): (Arc<dyn Store>, String) = match image.rsplit_once('/') {
            Some((folder, key)) if image.contains("://") => {
                (store::open(folder).context("the store cannot be opened")?, key.to_owned())
            }
            Some((folder, key)) => (Arc::new(Local::new(folder)), key.to_owned()),
            None => (Arc::new(Local::new(".")), image.to_owned()),
        };
        let opened = image::bare::open(&Transfer::new(store), &key, self.sha256, scratch.path(), &|_, _| {})
            .with_context(|| format!("unpacking {image}"))?;
        let documents = vec![(MANIFEST, opened.manifest().to_bytes())];
        Ok(Opened { image: opened, from: (image.to_owned(), String::new()), documents, _scratch: Some(scratch) })
    }
}

/// Opens a directory that `image pack` made.
fn open_packed(path: &Path, trust: &Trust) -> Result<Opened> {
    let (transfer, checked) = repository::packed(path, trust, Timestamp::now())?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    Opened::new(transfer, absolute.display().to_string(), &checked)
}

/// Opens the image whose documents a stage holds. What the stage lacks is asked for where the image came from.
pub(crate) fn open_stage(path: &Path, from: &(String, String), trust: &Trust) -> Result<Opened> {
    let (_, checked) = repository::packed(path, trust, Timestamp::now())?;
    let stage = Staged { stage: Local::new(path), from: from.clone() };
    let mut opened = Opened::new(Transfer::new(Arc::new(stage)), path.display().to_string(), &checked)?;
    opened.from.clone_from(from);
    Ok(opened)
}
