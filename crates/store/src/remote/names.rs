//! Names are resolved in this process: a static glibc would load the NSS modules of another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// Resolves by `/etc/hosts`, then by the servers of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Built at the first question: it needs the runtime, and an imager may have its network only by then.
    resolver: Arc<OnceCell<TokioResolver>>,
}

impl Names {
    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        // RFC 6761: never a question to a server, also where no hosts file says so.
        let bare = name.trim_end_matches('.').to_ascii_lowercase();
        if bare == "localhost" || bare.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let resolver = self.resolver.get_or_try_init(|| async { build() }).await?;
        Ok(resolver.lookup_ip(name).await?.iter().collect())
    }
}

/// A machine without servers still has its hosts file; nobody else's servers are asked instead.
fn build() -> Result<TokioResolver, Box<dyn std::error::Error + Send + Sync>> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::debug!(%error, "no name servers in /etc/resolv.conf, only /etc/hosts is read");
        let none = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(none, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    Ok(builder.build()?)
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.lookup(name.as_str()).await?;
            // Port 0: the URL's port is put in its place.
            Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::runtime;

    #[test]
    fn localhost_needs_no_server() {
        let runtime = runtime::start().expect("a runtime");
        for name in ["localhost", "LOCALHOST.", "images.localhost"] {
            let found = runtime.block_on(Names::default().lookup(name)).expect(name);
            assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{name}: {found:?}");
        }
    }
}
