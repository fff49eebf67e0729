//! How the store is reached: what the environment of the command that began an upgrade says of it. The imager has no other,
//! and the way back, which a service may begin, needs it once more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// Variables by name.
pub(crate) type Environment = BTreeMap<String, String>;

/// What this process has.
pub(crate) fn here() -> Environment {
    std::env::vars().filter(|(name, _)| is_of_the_store(name)).collect()
}

/// Whether a variable says how the store is reached: credentials, endpoints, proxies, certificates.
fn is_of_the_store(name: &str) -> bool {
    const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    ["AWS_", "SSL_CERT_", "KEEPSTATE_ALLOW_"].iter().any(|prefix| name.starts_with(prefix))
        || PROXIES.contains(&name.to_ascii_lowercase().as_str())
}

/// Keeps it for the way back, in a directory that only root looks into.
pub(crate) fn remember(environment: &Environment, path: &Path) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(environment).expect("an environment has only string keys");
    sys::replace_file(path, &bytes).map_err(|source| Error::File { doing: "writing", path: path.into(), source })
}

/// What was kept, over which goes what this process has.
pub(crate) fn recall(path: &Path) -> Result<Environment> {
    let failed = |source| Error::File { doing: "reading", path: path.into(), source };
    let mut environment: Environment = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Environment::new(),
        Err(error) => return Err(failed(error)),
    };
    environment.extend(here());
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_how_the_store_is_reached_is_taken() {
        for name in ["AWS_ENDPOINT_URL", "SSL_CERT_FILE", "KEEPSTATE_ALLOW_HTTP", "HTTPS_PROXY", "no_proxy"] {
            assert!(is_of_the_store(name), "{name}");
        }
        for name in ["PATH", "HOME", "KEEPSTATE_STORE", "PROXY"] {
            assert!(!is_of_the_store(name), "{name}");
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("environment.json");
        let nothing = recall(&path).unwrap();
        let environment = Environment::from([("AWS_REGION".into(), "eu-west-1".into())]);
        remember(&environment, &path).unwrap();
        let recalled = recall(&path).unwrap();
        assert_eq!(recalled.get("AWS_REGION").map(String::as_str), Some("eu-west-1"));
        assert_eq!(recalled.len(), nothing.len() + 1);
        fs::write(&path, "{").unwrap();
        assert!(recall(&path).unwrap_err().to_string().contains("environment.json"));
    }
}
