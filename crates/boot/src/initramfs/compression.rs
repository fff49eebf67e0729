//! What an initramfs is compressed with: what the kernel that unpacks it knows.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// The effort of zstd: measured on our binary, more takes seconds and saves a percent or two.
const ZSTD_LEVEL: i32 = 9;

/// What it is compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Nothing: every kernel reads that.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// zstd, from Linux 5.9 on.
    Zstd,
}

impl Compression {
    /// The best that a kernel with this configuration unpacks. What it does not say it does not know.
    pub fn of_kernel(config: &str) -> Self {
        let has = |option: &str| config.lines().any(|line| line.trim() == format!("{option}=y"));
        if has("CONFIG_RD_ZSTD") {
            Self::Zstd
        } else if has("CONFIG_RD_GZIP") {
            Self::Gzip
        } else {
            Self::None
        }
    }

    /// Lets `write` write through it into `out`.
    pub(super) fn write(self, mut out: impl Write, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let failed = |source| Error::file("writing", Path::new("the initramfs"))(source);
        match self {
            Self::None => write(&mut out)?,
            Self::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(&mut out, flate2::Compression::new(6));
                write(&mut gzip)?;
                gzip.finish().map_err(failed)?;
            }
            Self::Zstd => {
                let mut zstd = zstd::stream::write::Encoder::new(&mut out, ZSTD_LEVEL).map_err(failed)?;
                write(&mut zstd)?;
                zstd.finish().map_err(failed)?;
            }
        }
        out.flush().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_gets_what_it_can_unpack() {
        let config = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\n";
        assert_eq!(Compression::of_kernel(config), Compression::Gzip);
        assert_eq!(Compression::of_kernel("CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n"), Compression::Zstd);
        assert_eq!(Compression::of_kernel(""), Compression::None);
    }
}
