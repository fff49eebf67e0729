//! Credentials from a profile of `~/.aws/credentials` and `~/.aws/config`, which `object_store` does not read.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use serde::Deserialize;

use crate::clock::lock;
use crate::environment::Environment;
use crate::{Error, Kind};

/// How long what a file says is believed: another program may renew a session there.
const FILE_AGE_MAX: Duration = Duration::from_mins(1);
/// How long before its end a session is renewed.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
/// How long a `credential_process` may take: it may have to ask another service.
const PROCESS_DEADLINE: Duration = Duration::from_secs(30);
/// Most that a `credential_process` may say.
const PROCESS_BYTES_MAX: u64 = 64 << 10;

/// Settings of one profile, from both files.
#[derive(Clone, Default)]
pub(super) struct Profile {
    name: String,
    files: Vec<PathBuf>,
    settings: BTreeMap<String, String>,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, which must exist; else `default`, if there is one.
    pub(super) fn find(environment: &Environment) -> Result<Option<Self>, String> {
        let named = environment.get("AWS_PROFILE").or_else(|| environment.get("AWS_DEFAULT_PROFILE"));
        let config = environment.file("AWS_CONFIG_FILE", ".aws/config");
        let credentials = environment.file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        // The second one wins where both say something.
        let files: Vec<_> = [config, credentials].into_iter().flatten().collect();
        let name = named.unwrap_or("default").to_owned();
        let profile = Self::read(name, files)?;
        match (profile.settings.is_empty(), named) {
            (true, None) => Ok(None),
            (true, Some(name)) => {
                let files: Vec<_> = profile.files.iter().map(|file| file.display().to_string()).collect();
                Err(format!("AWS_PROFILE is {name:?}, and there is no such profile in {}", files.join(" or ")))
            }
            (false, _) => Ok(Some(profile)),
        }
    }

    fn read(name: String, files: Vec<PathBuf>) -> Result<Self, String> {
        let mut settings = BTreeMap::new();
        for file in &files {
            match std::fs::read_to_string(file) {
                Ok(text) => settings.extend(section(&text, &name)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
            }
        }
        Ok(Self { name, files, settings })
    }

    fn get(&self, setting: &str) -> Option<&str> {
        self.settings.get(setting).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn region(&self) -> Option<&str> {
        self.get("region")
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        self.get("endpoint_url")
    }

    /// Whether credentials come from here. What we cannot do is said, instead of asking the metadata service then.
    fn gives_credentials(&self) -> Result<bool, String> {
        if self.get("aws_access_key_id").is_some() || self.get("credential_process").is_some() {
            return Ok(true);
        }
        let other = ["sso_session", "sso_start_url", "role_arn", "source_profile", "credential_source"];
        match other.iter().find(|setting| self.get(setting).is_some()) {
            None => Ok(false),
            Some(setting) => Err(format!(
                "the profile {:?} uses {setting}, which is not understood here; let it say \
                 `credential_process = aws configure export-credentials --profile {0}` in a profile of its own",
                self.name
            )),
        }
    }

    fn keys(&self) -> Result<AwsCredential, String> {
        let secret = self.get("aws_secret_access_key");
        match (self.get("aws_access_key_id"), secret) {
            (Some(key_id), Some(secret_key)) => Ok(AwsCredential {
                key_id: key_id.to_owned(),
                secret_key: secret_key.to_owned(),
                token: self.get("aws_session_token").map(ToOwned::to_owned),
            }),
            _ => Err(format!("the profile {:?} has no aws_access_key_id with an aws_secret_access_key", self.name)),
        }
    }
}

/// The provider to use, if credentials are to come from the profile: the environment's own keys go before.
pub(super) fn credentials(
    environment: &Environment,
    profile: Option<&Profile>,
) -> Result<Option<AwsCredentialProvider>, String> {
    if environment.get("AWS_ACCESS_KEY_ID").is_some() || environment.is_true("AWS_SKIP_SIGNATURE") {
        return Ok(None);
    }
    if let Some(profile) = profile
        && profile.gives_credentials()?
    {
        return Ok(Some(Arc::new(ProfileCredentials { profile: profile.clone(), known: Mutex::default() })));
    }
    let names =
        ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    let elsewhere = names.iter().any(|name| environment.get(name).is_some());
    if environment.is_true("AWS_EC2_METADATA_DISABLED") && !elsewhere {
        return Err(
            "no credentials: neither the environment nor a profile has any, and AWS_EC2_METADATA_DISABLED is set"
                .into(),
        );
    }
    Ok(None)
}

/// Credentials of a profile, read again when they may be stale.
struct ProfileCredentials {
    profile: Profile,
    known: Mutex<Option<Known>>,
}

#[derive(Clone)]
struct Known {
    credential: Arc<AwsCredential>,
    /// From when on it is asked for anew.
    stale: Option<Instant>,
}

/// The name only: settings hold secrets.
impl std::fmt::Debug for ProfileCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProfileCredentials({:?})", self.profile.name)
    }
}

#[async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let known = lock(&self.known).clone();
        if let Some(known) = known
            && known.stale.is_none_or(|stale| Instant::now() < stale)
        {
            return Ok(known.credential);
        }
        let profile = self.profile.clone();
        let denied = |why: String| {
            let error =
                Error::new(Kind::Denied, "getting", format!("the credentials of profile {:?}", profile.name), why);
            object_store::Error::Generic { store: "S3", source: Box::new(error) }
        };
        // Files and processes block: not on the network's threads.
        let ask = self.profile.clone();
        let asked = tokio::task::spawn_blocking(move || ask.ask()).await.unwrap_or_else(|error| Err(error.to_string()));
        let known = asked.map_err(denied)?;
        *lock(&self.known) = Some(known.clone());
        Ok(known.credential)
    }
}

impl Profile {
    fn ask(self) -> Result<Known, String> {
        let now = Self::read(self.name, self.files)?;
        if now.get("aws_access_key_id").is_none()
            && let Some(command) = now.get("credential_process")
        {
            return run(command);
        }
        Ok(Known { credential: Arc::new(now.keys()?), stale: Some(Instant::now() + FILE_AGE_MAX) })
    }
}

/// What a `credential_process` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<Timestamp>,
}

fn run(command: &str) -> Result<Known, String> {
    let failed = |why: String| format!("its credential_process {command:?} {why}");
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.map(|output| output.take(PROCESS_BYTES_MAX).read_to_string(&mut text));
        read.transpose().map(|_| text)
    });
    let deadline = Instant::now() + PROCESS_DEADLINE;
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                // Only what was started here, and only this one.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("took longer than {PROCESS_DEADLINE:?}")));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if !status.success() {
        return Err(failed(format!("failed: {status}")));
    }
    let text =
        reader.join().map_err(|_| failed("cannot be read".into()))?.map_err(|error| failed(error.to_string()))?;
    // The text holds a secret: it is not repeated in the error.
    let printed: Printed = serde_json::from_str(&text)
        .map_err(|error| failed(format!("did not print credentials: line {}", error.line())))?;
    if printed.version != 1 {
        return Err(failed(format!("prints version {}, 1 is understood", printed.version)));
    }
    let stale = printed.expiration.map(|end| {
        let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
        Instant::now() + left.saturating_sub(RENEW_BEFORE)
    });
    let credential = AwsCredential {
        key_id: printed.access_key_id,
        secret_key: printed.secret_access_key,
        token: printed.session_token,
    };
    Ok(Known { credential: Arc::new(credential), stale })
}

/// The settings of `[name]` or `[profile name]`. Indented lines belong to a nested setting and are passed over.
fn section(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = line.trim().strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default().trim();
            let header = header.strip_prefix("profile ").unwrap_or(header).trim().trim_matches('"');
            inside = header == name;
        } else if inside
            && !line.starts_with([' ', '\t'])
            && let Some((setting, value)) = line.split_once('=')
        {
            // A comment behind a value begins with a blank.
            let value = value.split(" #").next().unwrap_or_default();
            settings.insert(setting.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn at(folder: &Path) -> Environment {
        [("HOME", folder.display().to_string())].into_iter().collect()
    }

    fn home(config: &str, credentials: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".aws")).expect("a folder");
        std::fs::write(home.path().join(".aws/config"), config).expect("is written");
        std::fs::write(home.path().join(".aws/credentials"), credentials).expect("is written");
        home
    }

    fn with(home: &tempfile::TempDir, more: &[(&str, &str)]) -> Environment {
        let base = [("HOME", home.path().to_str().expect("a text"))];
        base.into_iter().chain(more.iter().copied()).collect()
    }

    #[test]
    fn both_files_make_a_profile() {
        let home = home(
            "# comment\n[default]\nregion = eu-west-1 # here\n[profile ops]\nregion=us-west-2\ns3 =\n  max = 1\n",
            "[default]\naws_access_key_id=AKIA1\naws_secret_access_key = a/b+c=\n[ops]\nAWS_ACCESS_KEY_ID = AKIA2\n\
             aws_secret_access_key = s2\naws_session_token = t2\nregion = eu-central-1\n",
        );
        let profile = Profile::find(&at(home.path())).expect("reads").expect("is there");
        assert_eq!(profile.region(), Some("eu-west-1"));
        assert_eq!(profile.keys().expect("has keys").secret_key, "a/b+c=");
        let ops = Profile::find(&with(&home, &[("AWS_PROFILE", "ops")])).expect("reads").expect("is there");
        let keys = ops.keys().expect("has keys");
        assert_eq!(
            (keys.key_id.as_str(), keys.token.as_deref(), ops.region()),
            ("AKIA2", Some("t2"), Some("eu-central-1"))
        );
        assert_eq!(ops.get("max"), None, "a nested setting is another one");
        let why = Profile::find(&with(&home, &[("AWS_PROFILE", "nobody")])).err().expect("is not there");
        assert!(why.contains("nobody") && why.contains(".aws/config"), "{why}");
    }

    #[test]
    fn no_files_are_no_profile() {
        let home = tempfile::tempdir().expect("a folder");
        assert!(Profile::find(&at(home.path())).expect("reads").is_none());
        assert!(Profile::find(&Environment::default()).expect("reads").is_none());
        assert!(credentials(&at(home.path()), None).expect("asks elsewhere").is_none());
        let why =
            credentials(&with(&home, &[("AWS_EC2_METADATA_DISABLED", "true")]), None).expect_err("nowhere to ask");
        assert!(why.contains("no credentials"), "{why}");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let home = home("[default]\nsso_session = corp\n[profile half]\naws_access_key_id = A\n", "");
        let find = |more: &[(&str, &str)]| {
            let environment = with(&home, more);
            let profile = Profile::find(&environment).expect("reads");
            credentials(&environment, profile.as_ref())
        };
        assert!(find(&[]).expect_err("single sign-on").contains("credential_process"));
        assert!(find(&[("AWS_ACCESS_KEY_ID", "A")]).expect("keys go before a profile").is_none());
        let half = find(&[("AWS_PROFILE", "half")]).expect("is tried").expect("is a provider");
        let error =
            crate::remote::runtime::start().expect("a runtime").block_on(half.get_credential()).expect_err("half");
        assert!(
            error.to_string().contains("aws_secret_access_key")
                || format!("{error:?}").contains("aws_secret_access_key")
        );
    }

    #[test]
    fn a_file_is_read_again_and_a_process_is_asked() {
        let home = home("", "[default]\naws_access_key_id = A\naws_secret_access_key = s\n");
        let environment = at(home.path());
        let profile = Profile::find(&environment).expect("reads").expect("is there");
        assert_eq!(profile.clone().ask().expect("has keys").credential.key_id, "A");
        let process =
            r#"echo '{"Version":1,"AccessKeyId":"P","SecretAccessKey":"s","Expiration":"2999-01-01T00:00:00Z"}'"#;
        let file = home.path().join(".aws/credentials");
        std::fs::write(&file, format!("[default]\ncredential_process = {process}\n")).expect("is written");
        let asked = profile.clone().ask().expect("prints");
        assert_eq!(asked.credential.key_id, "P");
        assert!(asked.stale.expect("ends") > Instant::now() + Duration::from_hours(1));
        for (process, why) in [
            ("exit 3", "exit status: 3"),
            ("echo nonsense", "did not print"),
            ("echo '{\"Version\":2,\"AccessKeyId\":\"\",\"SecretAccessKey\":\"\"}'", "version 2"),
        ] {
            std::fs::write(&file, format!("[default]\ncredential_process = {process}\n")).expect("is written");
            let error = profile.clone().ask().err().expect("fails");
            assert!(error.contains(why), "{error}");
        }
    }
}
