//! Credential provider plugins: programs that the kubelet asks for registry credentials, by a `CredentialProviderConfig`.
//!
//! A plugin gets a request on its standard input and answers on its standard output. Answers are kept as long as it says, by
//! image, registry or for all images. Source: `credentialprovider.kubelet.k8s.io/v1` and `kubelet.config.k8s.io/v1`.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use podium_cri::v1::AuthConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::accounts::{Account, AccountKey, Accounts, Asked, TokenAttributes};
use crate::{
    images::verification::PullServiceAccount,
    metrics::{self, Metrics},
};

const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const CONFIG_KIND: &str = "CredentialProviderConfig";
/// The only version of requests and answers that upstream still has.
const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";
/// How long a plugin may take, as upstream's.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most an answer may be: a plugin that writes without end would fill the memory.
const MAX_ANSWER_BYTES: usize = 1 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not YAML of the right shape.
    #[error("not a CredentialProviderConfig")]
    Shape(#[source] serde_norway::Error),
    /// A value is wrong; the text names the field.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<TokenAttributes>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// What a plugin answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Clone, Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Why a plugin gave no credentials. Never holds what it answered.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot be run")]
    Run(#[source] std::io::Error),
    #[error("did not answer within {} seconds", TIMEOUT.as_secs())]
    Slow,
    #[error("failed with {status}: {stderr}")]
    Failed { status: std::process::ExitStatus, stderr: String },
    #[error("wrote more than an answer may be long")]
    Large,
    #[error("answered what is not a CredentialProviderResponse of {VERSION}")]
    Answer,
    #[error(
        "returned the service account token as the password which is not allowed when service account cache type is not set \
         to 'Token'"
    )]
    Echo,
}

/// By plugin, what the plugin says its answers are for, and the account that it was asked for.
type Key = (usize, String, Option<AccountKey>);
/// Answers that are still good.
type Kept = HashMap<Key, (Timestamp, BTreeMap<String, Login>)>;

/// Credentials that a plugin has for an image.
pub(crate) struct Credentials {
    pub(crate) auth: AuthConfig,
    /// The account whose token the plugin got; if none, every pod of the node can have them.
    pub(crate) account: Option<PullServiceAccount>,
}

/// The configured plugins.
pub struct Providers {
    providers: Vec<Provider>,
    programs: PathBuf,
    kept: Mutex<Kept>,
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.providers.iter().map(|provider| &provider.name)).finish()
    }
}

impl Providers {
    /// Reads a configuration file, or all of a directory in the order of their names. `programs`: where the plugins are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &Path, programs: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            files = entries.map_err(failed)?.into_iter().map(|entry| entry.path()).collect();
            files.retain(|file| {
                file.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
            });
            files.sort();
        }
        let mut providers = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file);
            providers.extend(parse(&text.map_err(|source| ConfigError::Read { path: file, source })?)?);
        }
        let mut names: Vec<&str> = providers.iter().map(|provider| provider.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::Invalid(format!("providers: the name {:?} is there twice", twice[0])));
        }
        Ok(Self { providers, programs: programs.to_owned(), kept: Mutex::default() })
    }

    /// The credentials that plugins have for a pod's image, the most specific of each plugin first. A plugin that fails has
    /// none.
    pub(crate) async fn for_image(
        &self,
        image: &str,
        pod: &Pod,
        accounts: &Accounts,
        metrics: &Metrics,
    ) -> Vec<Credentials> {
        let Ok(full) = podium_cri::normalize_image_name(image) else { return Vec::new() };
        let name = repository(&full).to_owned();
        let mut found = Vec::new();
        for (index, provider) in self.providers.iter().enumerate() {
            if !provider.match_images.iter().any(|pattern| super::matches(pattern, &name)) {
                continue;
            }
            let account = match self.account(provider, pod, accounts).await {
                Asked::Plainly => None,
                Asked::As(account) => Some(account),
                Asked::Not => continue,
            };
            let key = account.as_ref().zip(provider.token_attributes.as_ref()).map(|(one, how)| one.key(how));
            let logins = match self.kept(index, &name, key.as_ref()) {
                Some(logins) => logins,
                None => {
                    match timed(metrics, provider, self.ask(index, provider, &name, account.as_ref(), key))
                        .await
                    {
                        Ok(logins) => logins,
                        Err(failure) => {
                            let cause = podium_client::error_chain(&failure);
                            tracing::warn!(
                                provider = provider.name,
                                image,
                                cause,
                                "a credential provider failed"
                            );
                            continue;
                        }
                    }
                }
            };
            let mut fitting: Vec<_> =
                logins.into_iter().filter(|(pattern, _)| super::matches(pattern, &name)).collect();
            fitting.sort_by(|(one, _), (other, _)| other.cmp(one));
            found.extend(fitting.into_iter().map(|(_, login)| Credentials {
                auth: AuthConfig { username: login.username, password: login.password, ..Default::default() },
                account: account.as_ref().map(|account| account.coordinates.clone()),
            }));
        }
        found
    }

    /// How a plugin is asked for the pod; not at all if that cannot be found out.
    async fn account(&self, provider: &Provider, pod: &Pod, accounts: &Accounts) -> Asked {
        let Some(attributes) = &provider.token_attributes else { return Asked::Plainly };
        accounts.asked(pod, attributes).await.unwrap_or_else(|failure| {
            tracing::warn!(
                provider = provider.name,
                namespace = crate::pod::namespace(pod),
                pod = crate::pod::name(pod),
                cause = podium_client::error_chain(&failure),
                "a credential provider cannot be asked"
            );
            Asked::Not
        })
    }

    fn kept(
        &self,
        index: usize,
        image: &str,
        account: Option<&AccountKey>,
    ) -> Option<BTreeMap<String, Login>> {
        let now = Timestamp::now();
        let mut kept = self.kept.lock();
        kept.retain(|_, (until, _)| now < *until);
        [image, registry(image), ""].into_iter().find_map(|key| {
            kept.get(&(index, key.to_owned(), account.cloned())).map(|(_, logins)| logins.clone())
        })
    }

    async fn ask(
        &self,
        index: usize,
        provider: &Provider,
        image: &str,
        account: Option<&Account>,
        account_key: Option<AccountKey>,
    ) -> Result<BTreeMap<String, Login>, Failure> {
        let mut request = json!({"kind": "CredentialProviderRequest", "apiVersion": VERSION, "image": image});
        if let Some(account) = account {
            request["serviceAccountToken"] = json!(account.token);
            if !account.annotations.is_empty() {
                request["serviceAccountAnnotations"] = json!(account.annotations);
            }
        }
        let mut command = Command::new(self.programs.join(&provider.name));
        command.args(&provider.args).envs(provider.env.iter().map(|one| (&one.name, &one.value)));
        let output = run(command, request.to_string().as_bytes()).await?;
        let answer: Answer = serde_json::from_slice(&output).map_err(|_| Failure::Answer)?;
        // Only the three kinds of keys say for which images an answer is good.
        let key = match answer.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry(image),
            "Global" => "",
            _ => return Err(Failure::Answer),
        };
        if answer.api_version != VERSION {
            return Err(Failure::Answer);
        }
        let logins = answer.auth.unwrap_or_default();
        let per_token = provider.token_attributes.as_ref().is_some_and(TokenAttributes::is_per_token);
        if let Some(account) = account.filter(|account| !per_token && !account.token.is_empty())
            && logins.values().any(|login| login.password == account.token)
        {
            return Err(Failure::Echo);
        }
        let good_for = answer.cache_duration.as_deref().or(provider.default_cache_duration.as_deref());
        let good_for = good_for.and_then(podium_api::duration::parse).ok_or(Failure::Answer)?;
        if good_for.is_positive() {
            let until = Timestamp::now().checked_add(good_for).unwrap_or(Timestamp::MAX);
            self.kept.lock().insert((index, key.to_owned(), account_key), (until, logins.clone()));
        }
        Ok(logins)
    }
}

/// Counts a plugin's run.
async fn timed<T>(
    metrics: &Metrics,
    provider: &Provider,
    run: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (began, labels) = (Instant::now(), [("plugin_name", provider.name.as_str())]);
    let outcome = run.await;
    metrics.since(&metrics::PLUGIN_DURATION, &labels, began);
    outcome.inspect_err(|_| metrics.count(&metrics::PLUGIN_ERRORS, &labels))
}

fn parse(text: &str) -> Result<Vec<Provider>, ConfigError> {
    let file: File = serde_norway::from_str(text).map_err(ConfigError::Shape)?;
    let invalid = |text: String| Err(ConfigError::Invalid(text));
    if file.kind != CONFIG_KIND || !CONFIG_VERSIONS.contains(&file.api_version.as_str()) {
        return invalid(format!(
            "{} of {} is not {CONFIG_KIND} of {}",
            file.kind, file.api_version, CONFIG_VERSIONS[0]
        ));
    }
    if file.providers.is_empty() {
        return invalid("providers: at least 1 item in plugins is required".to_owned());
    }
    for (index, provider) in file.providers.iter().enumerate() {
        let at = |field: &str| format!("providers[{index}].{field}");
        let name = &provider.name;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) {
            return invalid(format!("{}: {name:?} is not the name of a program", at("name")));
        }
        if provider.match_images.is_empty() {
            return invalid(format!("{}: at least 1 item in matchImages is required", at("matchImages")));
        }
        if provider.api_version != VERSION {
            return invalid(format!("{}: {:?} is not {VERSION}", at("apiVersion"), provider.api_version));
        }
        let duration = provider.default_cache_duration.as_deref();
        match duration.and_then(podium_api::duration::parse) {
            Some(duration) if !duration.is_negative() => {}
            _ => {
                let field = at("defaultCacheDuration");
                return invalid(format!(
                    "{field}: {:?} is not a duration such as 12h",
                    duration.unwrap_or_default()
                ));
            }
        }
        if let Some(fault) = provider.token_attributes.as_ref().and_then(TokenAttributes::fault) {
            return invalid(format!("{}.{fault}", at("tokenAttributes")));
        }
    }
    Ok(file.providers)
}

/// An image's name without tag and digest.
fn repository(image: &str) -> &str {
    let bare = image.split_once('@').map_or(image, |(name, _)| name);
    match bare.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => bare,
    }
}

fn registry(image: &str) -> &str {
    image.split_once('/').map_or(image, |(registry, _)| registry)
}

/// Runs a plugin to its end and gives what it wrote. Dropping the future ends it.
async fn run(mut command: Command, input: &[u8]) -> Result<Vec<u8>, Failure> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(Failure::Run)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A plugin that does not read its request may answer all the same.
            let _ = stdin.write_all(input).await;
        }
        Ok(())
    };
    let work = async {
        let (answer, stderr, ()) =
            tokio::try_join!(bounded(stdout, MAX_ANSWER_BYTES), bounded(stderr, MAX_ERROR_BYTES), write)?;
        Ok((answer, stderr, child.wait().await.map_err(Failure::Run)?))
    };
    let (answer, stderr, status) = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| Failure::Slow)??;
    if !status.success() {
        return Err(Failure::Failed { status, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() });
    }
    Ok(answer)
}

/// All that comes out of a pipe; more than the bound is a failure.
async fn bounded(pipe: Option<impl AsyncRead + Unpin>, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        pipe.take(limit).read_to_end(&mut bytes).await.map_err(Failure::Run)?;
    }
    if bytes.len() > most { Err(Failure::Large) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::api::FakeApi;

    /// A plugin that counts its calls and answers with what the image asks for.
    fn plugin(directory: &Path, name: &str, script: &str) {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn config(providers: &str) -> String {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n{providers}"
        )
    }

    fn provider(name: &str, images: &str) -> String {
        format!(
            "- {{name: {name}, matchImages: [{images}], defaultCacheDuration: 1h, args: [a, b], \
             env: [{{name: WHO, value: joe}}], apiVersion: credentialprovider.kubelet.k8s.io/v1}}\n"
        )
    }

    fn answer(key: &str, duration: &str, auth: &str) -> String {
        format!(
            "echo call >> $0.calls; read request; echo \"$request $*\" > $0.request; echo '{{\"kind\": \
             \"CredentialProviderResponse\", \"apiVersion\": \"{VERSION}\", \"cacheKeyType\": \"{key}\"{duration}, \
             \"auth\": {auth}}}' | sed \"s/WHO/$WHO/\""
        )
    }

    async fn users(providers: &Providers, image: &str) -> Vec<String> {
        let accounts = Accounts::new(FakeApi::new().client());
        let found = providers.for_image(image, &Pod::default(), &accounts, &Metrics::default()).await;
        assert!(found.iter().all(|one| one.account.is_none()), "no plugin here knows of accounts");
        found.into_iter().map(|one| one.auth.username).collect()
    }

    fn pod(name: &str, account: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-of-{name}")},
            "spec": {"containers": [], "serviceAccountName": account}}))
        .unwrap()
    }

    /// A world with accounts, and one plugin with these attributes that answers with the user `u`.
    struct Accounted {
        directory: tempfile::TempDir,
        api: FakeApi,
        accounts: Accounts,
        providers: Providers,
    }

    impl Accounted {
        fn new(attributes: &str, auth: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let script = answer("Registry", "", auth);
            plugin(directory.path(), "p", &script);
            let text = config(
                &provider("p", "r.io").replace("args:", &format!("tokenAttributes: {{{attributes}}}, args:")),
            );
            let path = directory.path().join("config.yaml");
            std::fs::write(&path, text).unwrap();
            let providers = Providers::read(&path, directory.path()).unwrap();
            let api = FakeApi::new();
            for (name, annotations) in [("bot", json!({"a/b": "1", "c": "2", "d": "3"})), ("bare", json!({}))]
            {
                api.put("serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-of-{name}"), "annotations": annotations}}));
            }
            Self { directory, accounts: Accounts::new(api.client()), api, providers }
        }

        async fn found(&self, pod: &Pod) -> Vec<Credentials> {
            self.providers.for_image("r.io/app:v1", pod, &self.accounts, &Metrics::default()).await
        }

        /// How often the plugin was asked.
        fn calls(&self) -> usize {
            let calls = std::fs::read_to_string(self.directory.path().join("p.calls")).unwrap_or_default();
            calls.lines().count()
        }

        fn request(&self) -> serde_json::Value {
            let text = std::fs::read_to_string(self.directory.path().join("p.request")).unwrap();
            serde_json::from_str(text.trim_end().strip_suffix(" a b").unwrap()).unwrap()
        }
    }

    const LOGIN: &str = r#"{"r.io": {"username": "u", "password": "p"}}"#;
    const ANY: &str =
        "serviceAccountTokenAudience: reg, requireServiceAccount: true, cacheType: ServiceAccount";

    #[tokio::test]
    async fn plugins_get_a_token_and_the_annotations_they_asked_for() {
        let keys =
            "requiredServiceAccountAnnotationKeys: ['a/b'], optionalServiceAccountAnnotationKeys: [c, x]";
        let world = Accounted::new(&format!("{ANY}, {keys}"), LOGIN);
        let found = world.found(&pod("one", "bot")).await;
        assert_eq!(found[0].auth.username, "u");
        let account =
            PullServiceAccount { uid: "uid-of-bot".into(), namespace: "ns".into(), name: "bot".into() };
        assert_eq!(found[0].account, Some(account.clone()));
        let request = world.request();
        assert_eq!(request["serviceAccountToken"], "token-of-bot");
        assert_eq!(request["serviceAccountAnnotations"], json!({"a/b": "1", "c": "2"}));
        let asked = world.api.token_requests();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0]["spec"]["audiences"], json!(["reg"]));
        assert_eq!(asked[0]["spec"]["boundObjectRef"]["uid"], "uid-of-one");
        assert_eq!(asked[0]["metadata"]["uid"], "uid-of-bot", "not another account of that name");
        // Another pod of the account has the same; who lacks the annotation, and who has no account, has nothing.
        assert_eq!(world.found(&pod("two", "bot")).await[0].account, Some(account));
        assert!(world.found(&pod("three", "bare")).await.is_empty());
        assert!(world.found(&pod("four", "")).await.is_empty());
        assert!(world.found(&pod("five", "gone")).await.is_empty());
        assert_eq!(world.calls(), 1);
    }

    #[tokio::test]
    async fn answers_are_kept_for_an_account_or_a_token() {
        let world = Accounted::new(&format!("{ANY}, optionalServiceAccountAnnotationKeys: [c]"), LOGIN);
        for name in ["one", "two"] {
            world.found(&pod(name, "bot")).await;
        }
        assert_eq!(world.calls(), 1, "one account, two pods");
        world.found(&pod("three", "bare")).await;
        assert_eq!(world.calls(), 2, "another account");
        let put = |uid: &str, annotations: serde_json::Value| {
            world.api.put(
                "serviceaccounts",
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "bot", "namespace": "ns", "uid": uid, "annotations": annotations}}),
            );
        };
        put("uid-of-bot", json!({"c": "other"}));
        world.found(&pod("one", "bot")).await;
        assert_eq!(world.calls(), 3, "another annotation");
        put("uid-of-bot", json!({"c": "other", "unasked": "x"}));
        world.found(&pod("one", "bot")).await;
        assert_eq!(world.calls(), 3, "one that the plugin does not get");
        put("new", json!({"c": "other"}));
        world.found(&pod("one", "bot")).await;
        assert_eq!(world.calls(), 4, "another account of that name");

        let per_token = Accounted::new(&ANY.replace("cacheType: ServiceAccount", "cacheType: Token"), LOGIN);
        per_token.api.short_tokens();
        for name in ["one", "two"] {
            per_token.found(&pod(name, "bot")).await;
        }
        assert_eq!(per_token.calls(), 2, "two tokens");
    }

    #[tokio::test]
    async fn a_token_is_an_answer_only_if_answers_are_kept_by_it() {
        let echo = LOGIN.replace("\"p\"", "\"token-of-bot\"");
        let world = Accounted::new(ANY, &echo);
        assert!(world.found(&pod("one", "bot")).await.is_empty());
        let per_token = Accounted::new(&ANY.replace("cacheType: ServiceAccount", "cacheType: Token"), &echo);
        assert_eq!(per_token.found(&pod("one", "bot")).await[0].auth.password, "token-of-bot");
    }

    #[tokio::test]
    async fn pods_without_an_account_can_be_let_in() {
        let world = Accounted::new(&ANY.replace("true", "false"), LOGIN);
        let found = world.found(&pod("static", "")).await;
        assert_eq!((found.len(), &found[0].account), (1, &None));
        assert_eq!(world.request().get("serviceAccountToken"), None);
        assert!(world.found(&pod("one", "bot")).await[0].account.is_some());
        assert_eq!(world.calls(), 2, "the answer without an account is for nobody who has one");
    }

    #[tokio::test]
    async fn plugins_are_asked_once_for_what_they_answer_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let auth = r#"{"*.example.io": {"username": "wild", "password": "p"}, "r.example.io/team": {"username": "WHO", "password": "p"}, "other.io": {"username": "x"}}"#;
        plugin(directory.path(), "registry", &answer("Registry", "", auth));
        plugin(directory.path(), "never", &answer("Image", ", \"cacheDuration\": \"0s\"", auth));
        plugin(directory.path(), "broken", "echo secret; echo reason >&2; exit 3");
        let text = config(
            &(provider("registry", "'*.example.io'")
                + &provider("broken", "'*.example.io'")
                + &provider("never", "other.io")),
        );
        std::fs::write(at("config.yaml"), text).unwrap();
        let providers = Providers::read(&at("config.yaml"), directory.path()).unwrap();

        assert_eq!(users(&providers, "r.example.io/team/app:v1").await, ["joe", "wild"]);
        let request = std::fs::read_to_string(at("registry.request")).unwrap();
        assert!(
            request.contains(r#""image":"r.example.io/team/app""#) && request.ends_with("a b\n"),
            "{request}"
        );
        assert_eq!(users(&providers, "r.example.io:443/b").await, [""; 0], "another port");
        assert_eq!(users(&providers, "r.example.io/else").await, ["wild"], "kept for the registry");
        assert_eq!(users(&providers, "elsewhere.io/app").await, [""; 0]);
        let calls = |name: &str| std::fs::read_to_string(at(name)).unwrap().lines().count();
        assert_eq!(calls("registry.calls"), 1);
        let (metrics, accounts) = (Metrics::default(), Accounts::new(FakeApi::new().client()));
        providers.for_image("r.example.io/else", &Pod::default(), &accounts, &metrics).await;
        let counted = metrics.render("kubelet_credential_provider");
        for row in ["errors_total{plugin_name=\"broken\"} 1", "duration_count{plugin_name=\"broken\"} 1"] {
            assert!(
                counted.contains(&format!("kubelet_credential_provider_plugin_{row}\n")),
                "{row} in {counted}"
            );
        }
        assert!(!counted.contains("registry"), "it was not asked again: {counted}");

        for _ in 0..2 {
            assert_eq!(users(&providers, "other.io/app").await, ["x"]);
        }
        assert_eq!(calls("never.calls"), 2, "an answer that is good for no time is not kept");
    }

    #[tokio::test]
    async fn answers_of_the_wrong_kind_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let good = answer("Global", "", r#"{"x.io": {"username": "u"}}"#);
        for (number, script) in [
            "exit 1".to_owned(),
            "echo not json".to_owned(),
            good.replace("Global", "Everywhere"),
            good.replace(VERSION, "credentialprovider.kubelet.k8s.io/v2"),
            good.replace("\"auth\"", "\"cacheDuration\": \"soon\", \"auth\""),
            "exec cat /dev/zero".to_owned(),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("p{number}");
            plugin(directory.path(), &name, &script);
            let path = directory.path().join("config.yaml");
            std::fs::write(&path, config(&provider(&name, "x.io"))).unwrap();
            let providers = Providers::read(&path, directory.path()).unwrap();
            assert_eq!(users(&providers, "x.io/app").await, [""; 0], "{script}");
        }
    }

    #[test]
    fn configurations_are_checked() {
        assert_eq!(parse(&config(&provider("a", "x.io"))).unwrap().len(), 1);
        let check = |text: String, wanted: &str| {
            let error = podium_client::error_chain(&parse(&text).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        };
        check("kind: x".to_owned(), "not a CredentialProviderConfig");
        check(config(" []"), "at least 1 item in plugins is required");
        check(config(&provider("../a", "x.io")), "is not the name of a program");
        check(config(&provider("a", "")), "at least 1 item in matchImages is required");
        check(config(&provider("a", "x").replace("1h", "soon")), "defaultCacheDuration");
        check(config(&provider("a", "x").replace("k8s.io/v1", "k8s.io/v1beta1")), "apiVersion");
        let attributes = |text: &str| {
            config(&provider("a", "x").replace("args:", &format!("tokenAttributes: {{{text}}}, args:")))
        };
        let good = "serviceAccountTokenAudience: r, cacheType: Token, requireServiceAccount: true";
        assert_eq!(parse(&attributes(good)).unwrap().len(), 1);
        for (text, wanted) in [
            (String::new(), "providers[0].tokenAttributes.serviceAccountTokenAudience: Required value"),
            ("serviceAccountTokenAudience: r".to_owned(), "requireServiceAccount: Required value"),
            (good.replace("Token,", "Other,"), "cacheType: Unsupported value: \"Other\""),
            (good.replace("cacheType: Token,", ""), "cacheType is required to be set"),
            (format!("{good}, requiredServiceAccountAnnotationKeys: ['a b']"), "Invalid value: \"a b\""),
            (format!("{good}, optionalServiceAccountAnnotationKeys: [a, a]"), "Duplicate value: \"a\""),
            (
                format!(
                    "{good}, requiredServiceAccountAnnotationKeys: [a], optionalServiceAccountAnnotationKeys: [a]"
                ),
                "annotation keys cannot be both required and optional",
            ),
            (
                format!("{}, requiredServiceAccountAnnotationKeys: [a]", good.replace("true", "false")),
                "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
            ),
            (format!("{good}, other: x"), "unknown field"),
        ] {
            check(attributes(&text), wanted);
        }
        check(config(&provider("a", "x").replace("args:", "arguments:")), "unknown field");
        let directory = tempfile::tempdir().unwrap();
        for name in ["1.yaml", "2.yaml"] {
            std::fs::write(directory.path().join(name), config(&provider("a", "x"))).unwrap();
        }
        let error = Providers::read(directory.path(), directory.path()).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
}
