//! What IMAGE means: an image in a store, a packed directory, or a bare `.lz4`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use image::sign::PublicKey;
use image::{Opened, Reference, Trust};
use model::name::NameError;

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

impl ImageArgs {
    /// Finds the image that a person named, and checks its manifest.
    pub(crate) fn open(&self, image: &str) -> Result<Opened> {
        let reference: Reference = image.parse().map_err(|error: NameError| WrongUsage(error.to_string()))?;
        Ok(match reference {
            Reference::Packed(path) => Opened::packed(&path, &self.trust.open()?)?,
            Reference::Bare(name) => Opened::bare(&name, self.sha256, &self.scratch)?,
            Reference::Named(name) => {
                let (trust, transfer) = (self.trust.open()?, self.store.transfer()?);
                Opened::named(transfer, self.store.store.as_deref().unwrap_or_default(), &name, &trust)?
            }
        })
    }
}
