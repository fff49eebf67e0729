//! `https://…`: a web server with range requests, read-only.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use object_store::ClientOptions;
use object_store::http::HttpBuilder;
use url::{Host, Url};

use super::client::Needs;
use super::wire::Wire;
use super::{Remote, client, no_retry};
use crate::Result;
use crate::open::{Options, invalid};

/// Plain `http://` is spoken with this machine only, unless this is set.
const ALLOW_HTTP: &str = "KEEPSTATE_ALLOW_HTTP";
/// Release pages of forges redirect once or twice.
const REDIRECTS: usize = 5;

/// Opens the store below `url`. Its query, such as a token, is kept for every request.
pub(crate) fn open(url: &Url, options: &Options) -> Result<Remote> {
    let wrong = |why: String| invalid(url.as_str(), why);
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it holds a user or password, which would be shown in messages".to_owned()));
    }
    let http = url.scheme() == "http";
    if http && !is_this_machine(url) && !options.environment.is_true(ALLOW_HTTP) {
        return Err(wrong(format!("without https anybody on the way can read along; {ALLOW_HTTP}=1 allows it")));
    }
    let needs = Needs { tls: true, http, redirects: REDIRECTS };
    let wire = Wire::new(client::build(options, &needs).map_err(wrong)?, options.deadlines, BTreeSet::new());
    // The path's own `/` at the end would become an empty part.
    let mut base = url.clone();
    base.set_path(url.path().trim_end_matches('/'));
    let store = HttpBuilder::new()
        .with_url(base.as_str())
        .with_client_options(ClientOptions::new().with_allow_http(http).with_timeout_disabled())
        .with_retry(no_retry())
        .with_http_connector(wire)
        .build()
        .map_err(|error| invalid(url.as_str(), error))?;
    let mut name = base;
    name.set_query(None);
    let name = name.as_str().trim_end_matches('/').to_owned();
    Remote::new(name, String::new(), Arc::new(store), None, options)
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}
