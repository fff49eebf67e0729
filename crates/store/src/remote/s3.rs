//! `s3://bucket/prefix`: endpoint, region and credentials from URL, environment, profile or the machine's role.

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use url::Url;

use super::client::Needs;
use super::profile::{self, Profile};
use super::wire::Wire;
use super::{Remote, client, decoded_path, no_retry};
use crate::Result;
use crate::environment::Environment;
use crate::open::{Options, invalid};

/// Where EC2 gives a machine its role's credentials.
const METADATA: &str = "http://169.254.169.254";
const METADATA_IPV6: &str = "http://[fd00:ec2::254]";
/// Where ECS gives a container its role's credentials.
const CONTAINER_METADATA: &str = "169.254.170.2";

/// What `object_store` itself understands; all else is decided here.
const PASSED_ON: [&str; 14] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
    "AWS_REQUEST_PAYER",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
];

/// Opens the bucket.
pub(crate) fn open(url: &Url, options: &Options) -> Result<Remote> {
    let wrong = |why: String| invalid(url.as_str(), why);
    let environment = &options.environment;
    let bucket =
        url.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(|| wrong("it names no bucket".into()))?;
    let query = Query::read(url).map_err(wrong)?;
    let profile = Profile::find(environment).map_err(wrong)?;
    let of_profile = |value: fn(&Profile) -> Option<&str>| profile.as_ref().and_then(value);

    let endpoint = query
        .endpoint
        .as_deref()
        .or_else(|| environment.get("AWS_ENDPOINT_URL_S3"))
        .or_else(|| environment.get("AWS_ENDPOINT_URL"))
        .or_else(|| of_profile(Profile::endpoint));
    let endpoint = endpoint.map(check_endpoint).transpose().map_err(wrong)?;
    let region = query
        .region
        .as_deref()
        .or_else(|| environment.get("AWS_REGION"))
        .or_else(|| environment.get("AWS_DEFAULT_REGION"))
        .or_else(|| of_profile(Profile::region))
        .unwrap_or("us-east-1");

    let metadata = metadata_endpoint(environment);
    let http = endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
    // Plain http is also how a machine's role is asked for; whether objects come that way is the endpoint's choice.
    let needs = Needs { tls: !http, http: true, redirects: 0 };
    let credential_hosts = credential_hosts(environment, &metadata);
    let client = client::build(options, &needs).map_err(wrong)?;
    let wire = Wire::new(client, options.deadlines, credential_hosts);

    let mut builder = AmazonS3Builder::new();
    for name in PASSED_ON {
        if let (Some(value), Ok(key)) = (environment.get(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>())
        {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(credentials) = profile::credentials(environment, profile.as_ref()).map_err(wrong)? {
        builder = builder.with_credentials(credentials);
    }
    // A dot in a bucket's name would not match Amazon's certificate.
    builder = match &endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.as_str().trim_end_matches('/')),
        None => builder.with_virtual_hosted_style_request(!bucket.contains('.')),
    };
    let store = builder
        .with_bucket_name(bucket)
        .with_region(region)
        .with_metadata_endpoint(metadata)
        .with_client_options(ClientOptions::new().with_allow_http(http).with_timeout_disabled())
        .with_retry(no_retry())
        // Single deletes are understood by every store, bulk ones are not.
        .with_disable_bulk_delete(true)
        .with_http_connector(wire)
        .build()
        .map_err(|error| invalid(url.as_str(), error))?;
    let store = Arc::new(store);
    let prefix = decoded_path(url).map_err(wrong)?;
    if !prefix.is_empty() {
        crate::key::check("opening", &prefix)?;
    }
    Remote::new(format!("s3://{bucket}"), prefix, store.clone(), Some(store), options)
}

/// What may stand behind the `?`.
#[derive(Default)]
struct Query {
    endpoint: Option<String>,
    region: Option<String>,
}

impl Query {
    fn read(url: &Url) -> Result<Self, String> {
        let mut query = Self::default();
        for (name, value) in url.query_pairs() {
            match &*name {
                "endpoint" => query.endpoint = Some(value.into_owned()),
                "region" => query.region = Some(value.into_owned()),
                other => return Err(format!("it has the option {other:?}, known are endpoint and region")),
            }
        }
        Ok(query)
    }
}

fn check_endpoint(endpoint: &str) -> Result<Url, String> {
    match Url::parse(endpoint) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err(format!("the endpoint {endpoint:?} is not http://… or https://…")),
    }
}

fn metadata_endpoint(environment: &Environment) -> String {
    let ipv6 =
        environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let usual = if ipv6 { METADATA_IPV6 } else { METADATA };
    let named = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(usual);
    named.trim_end_matches('/').to_owned()
}

/// Hosts that give credentials: what they answer says nothing about objects.
fn credential_hosts(environment: &Environment, metadata: &str) -> BTreeSet<String> {
    let container = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let named = [Some(metadata), container].into_iter().flatten().filter_map(|url| Url::parse(url).ok());
    // As it stands in a request: without the port if it is the usual one.
    named.map(|url| url.authority().to_owned()).chain([CONTAINER_METADATA.to_owned()]).collect()
}
