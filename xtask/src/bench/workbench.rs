//! Everything that stands ready before the first run: packed and published images, the server, the others' objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Instant;

use anyhow::{Context, Result};

use super::disk::digest_of;
use super::service::Service;
use crate::images::{Image, Images};
use crate::run;

/// Which of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Version 1.
    V1,
    /// Version 2 written onto version 1's filesystem.
    Onto,
    /// Version 2 made from scratch.
    Scratch,
}

impl Which {
    const ALL: [Self; 3] = [Self::V1, Self::Onto, Self::Scratch];

    /// The name that it is published under.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::Onto => "2-onto",
            Self::Scratch => "2-scratch",
        }
    }
}

/// One image, ready to be flashed in everybody's way.
#[derive(Debug)]
pub(crate) struct Ready {
    which: Which,
    /// The raw disk.
    pub(crate) raw: PathBuf,
    /// Bytes of it that are not holes.
    pub(crate) used: u64,
    /// Bytes, in chunks of 64 KiB, that differ from version 1.
    pub(crate) differing: u64,
    /// Its BLAKE3: what must be on the disk after every run.
    pub(crate) digest: blake3::Hash,
    /// Size of our payload, from the manifest.
    pub(crate) payload: u64,
    /// Size of the whole disk by `lz4 -1`.
    pub(crate) lz4: u64,
    /// Size of the whole disk by `zstd` at its default level.
    pub(crate) zstd: u64,
    /// bmaptool's map of the disk.
    pub(crate) map: PathBuf,
    /// Seconds that `keepstate image pack` took.
    pub(crate) pack_seconds: f64,
}

/// The bench. Server and directories go with it.
#[derive(Debug)]
pub(crate) struct Workbench {
    /// The binary under test.
    pub(crate) keepstate: PathBuf,
    /// Where the test disk's file is, on the machine's disk.
    pub(crate) on_disk: PathBuf,
    /// Where everything else is that is read or written during a run, in memory: only the test disk is to be measured.
    pub(crate) in_memory: PathBuf,
    /// Variables of every run.
    pub(crate) environment: Vec<(String, String)>,
    /// The ancestor's client.
    pub(crate) aws: PathBuf,
    images: Vec<Ready>,
    // The server goes first, then what it serves.
    service: Service,
    _places: Places,
}

impl Workbench {
    /// Packs, serves, publishes and uploads.
    pub(crate) fn new(keepstate: &Path, images: &Images, cache: &Path, python: &Path) -> Result<Self> {
        let places = Places::new(cache)?;
        let (on_disk, in_memory) = (places.on_disk.clone(), places.in_memory.clone());
        let service = Service::start(keepstate, &in_memory.join("bucket"))?;
        let mut environment: Vec<_> = service.environment.clone().into_iter().collect();
        // Nothing of whoever runs this: neither configuration nor what was accepted before.
        for (variable, path) in [("HOME", "home"), ("KEEPSTATE_STATE", "state"), ("XDG_CACHE_HOME", "cache")] {
            let path = in_memory.join(path);
            fs::create_dir_all(&path)?;
            environment.push((variable.to_owned(), path.display().to_string()));
        }
        let aws = python.join("aws");
        let mut bench = Self {
            keepstate: keepstate.to_path_buf(),
            on_disk,
            in_memory,
            environment,
            aws,
            images: Vec::new(),
            service,
            _places: places,
        };
        bench.keepstate(&["key", "new", "-o", "ci"])?;
        for which in Which::ALL {
            let (image, differing) = match which {
                Which::V1 => (&images.v1, 0),
                Which::Onto => (&images.v2_onto, images.onto.kib_64),
                Which::Scratch => (&images.v2_scratch, images.scratch.kib_64),
            };
            let ready = bench.publish(which, image, differing)?;
            bench.images.push(ready);
        }
        Ok(bench)
    }

    /// An image by its name here.
    pub(crate) fn image(&self, which: Which) -> &Ready {
        self.images.iter().find(|image| image.which == which).expect("new() made every one")
    }

    /// What `curl` must be told to be let in, and the URL of an object.
    pub(crate) fn curl(&self, object: &str) -> Result<String> {
        let variable = |name: &str| self.service.variable(name);
        let region = variable("AWS_REGION")?;
        Ok(format!(
            "curl --silent --show-error --fail --aws-sigv4 aws:amz:{region}:s3 --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --user \"$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY\" {}/{}/{object}",
            self.endpoint()?,
            self.prefix()?.trim_start_matches("s3://")
        ))
    }

    /// Where the server listens.
    pub(crate) fn endpoint(&self) -> Result<&str> {
        self.service.variable("AWS_ENDPOINT_URL")
    }

    /// `s3://bucket/prefix`.
    pub(crate) fn prefix(&self) -> Result<&str> {
        self.service.variable("KEEPSTATE_STORE")
    }

    /// Runs the binary in the bench's directory.
    fn keepstate(&self, args: &[&str]) -> Result<()> {
        let mut command = run::command(&self.keepstate.to_string_lossy(), args);
        run::quietly(command.args(["--progress", "none"]).envs(self.variables()).current_dir(&self.in_memory))
    }

    fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn publish(&self, which: Which, image: &Image, differing: u64) -> Result<Ready> {
        let raw = image.path.as_path();
        let version = which.version();
        run::say(&format!("  packing and publishing debian@{version}, and the same as .lz4 and .zst"));
        let begin = Instant::now();
        let path = raw.to_string_lossy();
        self.keepstate(&[
            "image",
            "pack",
            &path,
            "-o",
            "out",
            "--name",
            "debian",
            "--version",
            version,
            "--sign",
            "ci.key",
        ])?;
        let pack_seconds = begin.elapsed().as_secs_f64();
        let packed = format!("out/debian@{version}");
        self.keepstate(&["image", "publish", &packed, "--sign", "ci.key"])?;
        let manifest = fs::read(self.in_memory.join(&packed).join("manifest.json")).context("reading the manifest")?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        let payload = manifest["payload"]["size"].as_u64().context("the manifest says no payload size")?;
        fs::remove_dir_all(self.in_memory.join(&packed))?;
        let map = self.in_memory.join(format!("{version}.bmap"));
        run::quietly(run::command("bmaptool", ["create", "--output"]).arg(&map).arg(raw))?;
        Ok(Ready {
            which,
            raw: raw.to_path_buf(),
            used: image.used,
            differing,
            digest: digest_of(fs::File::open(raw)?)?,
            payload,
            lz4: self.upload(raw, version, "lz4", "lz4 -1 -q")?,
            zstd: self.upload(raw, version, "zst", "zstd -q -T0")?,
            map,
            pack_seconds,
        })
    }

    fn upload(&self, raw: &Path, version: &str, ending: &str, compress: &str) -> Result<u64> {
        let object = self.in_memory.join(format!("{version}.{ending}"));
        run::run("bash", ["-euc", &format!("{compress} -c <'{}' >'{}'", raw.display(), object.display())])?;
        let size = fs::metadata(&object)?.len();
        let mut aws = run::command(&self.aws.to_string_lossy(), ["s3", "cp", "--only-show-errors"]);
        aws.arg(&object).arg(format!("{}/{version}.{ending}", self.prefix()?));
        run::quietly(aws.envs(self.variables()))?;
        fs::remove_file(&object)?;
        Ok(size)
    }
}

/// Directories of one benchmark, removed with the value.
#[derive(Debug)]
struct Places {
    on_disk: PathBuf,
    in_memory: PathBuf,
}

impl Places {
    fn new(cache: &Path) -> Result<Self> {
        let name = format!("keepstate-bench-{}", process::id());
        let places = Self { on_disk: cache.join(&name), in_memory: Path::new("/dev/shm").join(&name) };
        fs::create_dir_all(&places.on_disk)?;
        fs::create_dir_all(places.in_memory.join("bucket"))?;
        Ok(places)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for directory in [&self.on_disk, &self.in_memory] {
            if let Err(error) = fs::remove_dir_all(directory) {
                run::say(&format!("{} could not be removed: {error}", directory.display()));
            }
        }
    }
}
