//! Which certificates are believed.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::environment::Environment;

/// The roots of `AWS_CA_BUNDLE` if it is set, else the machine's, else (an imager has none) Mozilla's as built in.
/// Where only `http://` is spoken nothing is read at all.
pub(super) fn config(environment: &Environment, speaks_tls: bool) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if speaks_tls {
        if let Some(bundle) = environment.get("AWS_CA_BUNDLE") {
            let loaded = rustls_native_certs::load_certs_from_paths(Some(Path::new(bundle)), None);
            roots.add_parsable_certificates(loaded.certs);
            if roots.is_empty() {
                let why = loaded.errors.first().map_or_else(|| "it holds none".to_owned(), ToString::to_string);
                return Err(format!("no certificate can be read from AWS_CA_BUNDLE={bundle}: {why}"));
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(versions.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_holds_nothing_is_said_so() {
        let environment = [("AWS_CA_BUNDLE", "/does/not/exist.pem")].into_iter().collect();
        let why = config(&environment, true).expect_err("cannot be read");
        assert!(why.contains("/does/not/exist.pem"), "{why}");
        config(&environment, false).expect("is not needed for http://");
    }

    #[test]
    fn a_machine_without_certificates_still_speaks_tls() {
        config(&Environment::default(), true).expect("built-in roots, if need be");
    }
}
