//! The HTTP client: names, certificates, proxies, redirects.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, NoProxy, Proxy};

use super::names::Names;
use super::tls;
use crate::open::Options;

/// What a store needs of its client.
pub(super) struct Needs {
    /// Whether any of its requests is `https://`.
    pub(super) tls: bool,
    /// Whether plain `http://` may be spoken, also after a redirect.
    pub(super) http: bool,
    /// How many redirects are followed: none where requests are signed.
    pub(super) redirects: usize,
}

/// Never through a proxy: this machine, and what gives credentials to it.
const DIRECT: &str = "localhost,127.0.0.0/8,::1,169.254.0.0/16,fd00:ec2::/32";

/// Builds the client.
pub(super) fn build(options: &Options, needs: &Needs) -> Result<Client, String> {
    let Needs { tls: speaks_tls, http, redirects } = *needs;
    let environment = &options.environment;
    let mut builder = Client::builder()
        .user_agent(concat!("keepstate/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls::config(environment, speaks_tls)?)
        .dns_resolver(Arc::new(Names::default()))
        .connect_timeout(options.deadlines.connect)
        .pool_idle_timeout(Duration::from_mins(1))
        // Many connections, each with its own window, are faster than many streams on one.
        .http1_only()
        .https_only(!http)
        .redirect(Policy::custom(move |attempt| redirect(attempt, redirects, http)))
        .no_proxy();
    for (scheme, names) in [("https", ["HTTPS_PROXY", "https_proxy"]), ("http", ["HTTP_PROXY", "http_proxy"])] {
        let Some(url) = names.iter().find_map(|name| environment.get(name)) else { continue };
        let proxy = if scheme == "https" { Proxy::https(url) } else { Proxy::http(url) };
        let exempt = environment.get("NO_PROXY").or_else(|| environment.get("no_proxy")).unwrap_or_default();
        let exempt = NoProxy::from_string(&format!("{DIRECT},{exempt}"));
        builder = builder.proxy(proxy.map_err(|error| error.to_string())?.no_proxy(exempt));
    }
    builder.build().map_err(|error| crate::error::chain(&error))
}

fn redirect(attempt: Attempt<'_>, most: usize, http: bool) -> reqwest::redirect::Action {
    // Stopped, not failed: the answer then is the redirect itself, which says what happened.
    if attempt.previous().len() > most || (attempt.url().scheme() == "http" && !http) {
        return attempt.stop();
    }
    attempt.follow()
}
