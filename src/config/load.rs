//! From files, environment and flags to a checked [`Config`]. The only place that reads any of them.
//!
//! Relative paths, those in the file too, are relative to the working directory.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ::config::{Map, Source, Value, ValueKind};
use zeroize::Zeroize as _;

use super::check::{self, SecretFiles};
use super::problem::{Place, Problems, Report};
use super::raw::Raw;
use super::{Config, Logo, env_layer, file_layer};
use crate::model::Secret;

/// Where a configuration is looked for when nobody names one.
pub const SEARCHED: [&str; 3] = ["nullpass.toml", "config/nullpass.toml", "/etc/nullpass/nullpass.toml"];

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "NULLPASS_CONFIG";

/// No configuration is longer, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// No secret's file is longer, in bytes.
const LONGEST_SECRET: u64 = 64 << 10;

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`: replaces `server.listen`.
    pub listen: Option<String>,
    /// `--upstream`: one upstream named `app`, instead of the file's.
    pub upstream: Option<String>,
}

/// What to load from; kept for reloading.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The variables; [`process_environment`] in production.
    pub environment: Vec<(String, String)>,
    /// The flags.
    pub overrides: Overrides,
    /// Whether a configuration that names no upstream will do, as for commands that forward nothing.
    pub without_upstream: bool,
}

/// A configuration that is fit to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// It.
    pub config: Config,
    /// One line for each setting that weakens something, to be logged at start.
    pub dangers: Vec<String>,
    /// The files that were read: the configuration's own first, then secrets and certificates.
    pub sources: Vec<PathBuf>,
    /// What was written, for [`super::effective`].
    pub raw: Raw,
}

/// This process' environment. What is not UTF-8 is replaced, and refused later if it is one of ours.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect()
}

/// The file to read: the flag's, `$NULLPASS_CONFIG`'s, or the first of [`SEARCHED`] that is there. A file that is named
/// is not looked for: that it is missing is an error when it is loaded.
pub fn find(flag: Option<&Path>, environment: &[(String, String)]) -> Option<PathBuf> {
    let named =
        || environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty()).map(|(_, value)| PathBuf::from(value));
    flag.map(Path::to_owned).or_else(named).or_else(|| {
        // One that can't be looked at is taken, so that loading it says why, instead of passed over.
        SEARCHED.iter().map(PathBuf::from).find(|path| path.try_exists().unwrap_or(true))
    })
}

/// Finds, reads, merges and checks. Flags hold over the environment, the environment over the file. Every problem that
/// can be found is reported, not the first alone.
pub fn load(options: &LoadOptions) -> Result<Loaded, Problems> {
    let mut report = Report::default();
    let mut sources = Vec::new();
    let mut file = None;
    if let Some(path) = find(options.file.as_deref(), &options.environment) {
        let name = path.display().to_string();
        match read_text(&path, LONGEST_FILE) {
            Ok(text) => file = Some((name, text)),
            Err(error) => {
                report.add_at(Place::WholeFile(name), "", format!("can't be read: {error}"));
                return Err(report.into_problems());
            }
        }
        sources.push(path);
    }
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let Some(raw) = merge(file, &options.environment, &options.overrides, &mut report) else {
        return Err(report.into_problems());
    };

    if options.without_upstream {
        report.mute("upstreams".to_owned());
    }
    let secrets = read_secrets(&raw, &mut report, &mut sources);
    let mut checked = check::check(&raw, &secrets, &mut report);
    checked.config.ui.logo = read_logo(&raw, &mut report, &mut sources);
    for (key, path) in checked.files {
        // A certificate or an authority that can't be read must not turn into "none configured" (CFG-3).
        match std::fs::File::open(&path) {
            Ok(_) => sources.push(path),
            Err(error) => report.add(&key, format!("{} can't be read: {error}", path.display())),
        }
    }
    if report.has_problems() {
        return Err(report.into_problems());
    }
    Ok(Loaded { config: checked.config, dangers: checked.dangers, sources, raw })
}

/// Puts the layers on top of each other. `None`: the file is no TOML, so that nothing else can be said.
pub(super) fn merge(
    file: Option<(&str, &str)>,
    environment: &[(String, String)],
    overrides: &Overrides,
    report: &mut Report,
) -> Option<Raw> {
    let file = match file {
        Some((name, text)) => file_layer::read(name, text, report)?,
        None => Map::new(),
    };
    let variables = env_layer::read(environment, report);
    let flags = flag_layer(environment, overrides, report);
    let merged = ::config::Config::builder()
        .add_source(Layer(file))
        .add_source(Layer(variables))
        .add_source(Layer(flags))
        .build()
        .and_then(::config::Config::try_deserialize);
    match merged {
        Ok(raw) => Some(raw),
        // The layers hold only what the schema allows, which a test holds against `Raw`.
        Err(error) => {
            report.add_at(Place::Nowhere, "", error.to_string());
            None
        }
    }
}

/// `--listen` and `--upstream`, or its variable.
fn flag_layer(environment: &[(String, String)], overrides: &Overrides, report: &mut Report) -> Map<String, Value> {
    let text = |value: &str| Value::new(None, ValueKind::String(value.to_owned()));
    let mut map = Map::new();
    if let Some(listen) = &overrides.listen {
        report.replace_place("server.listen".to_owned(), Place::Flag("--listen"));
        map.insert("server.listen".to_owned(), Value::new(None, ValueKind::Array(vec![text(listen)])));
    }
    let (url, place) = match (&overrides.upstream, env_layer::upstream(environment)) {
        (Some(url), _) => (url.as_str(), Place::Flag("--upstream")),
        (None, Some(url)) => (url, Place::Variable(env_layer::UPSTREAM.to_owned())),
        (None, None) => return map,
    };
    report.replace_place("upstreams".to_owned(), place);
    let upstream = Map::from([("name".to_owned(), text("app")), ("url".to_owned(), text(url))]);
    map.insert("upstreams".to_owned(), Value::new(None, ValueKind::Array(vec![Value::new(None, ValueKind::Table(upstream))])));
    map
}

/// Reads the `*_file` keys. A file that is missing, empty or no text is an error: it was meant to hold a secret (CFG-3).
fn read_secrets(raw: &Raw, report: &mut Report, sources: &mut Vec<PathBuf>) -> SecretFiles {
    let mut read = |key: &str, path: Option<&String>| {
        let path = PathBuf::from(path.filter(|path| !path.is_empty())?);
        match read_secret(&path) {
            Ok(secret) => {
                sources.push(path);
                Some(secret)
            }
            Err(error) => {
                report.add(key, format!("{} can't be read: {error}", path.display()));
                None
            }
        }
    };
    SecretFiles {
        master_key: read("storage.master_key_file", raw.storage.master_key_file.as_ref()),
        previous_master_key: read("storage.previous_master_key_file", raw.storage.previous_master_key_file.as_ref()),
        database_url: read("storage.url_file", raw.storage.url_file.as_ref()),
        bootstrap_password: read(
            "accounts.bootstrap_admin.password_file",
            raw.accounts.bootstrap_admin.as_ref().and_then(|admin| admin.password_file.as_ref()),
        ),
    }
}

/// Reads the picture of `ui.logo`.
fn read_logo(raw: &Raw, report: &mut Report, sources: &mut Vec<PathBuf>) -> Option<Logo> {
    let path = PathBuf::from(raw.ui.logo.as_ref().filter(|path| !path.is_empty())?);
    let read = std::fs::File::open(&path).and_then(|file| {
        let mut bytes = Vec::new();
        // One byte more than is allowed, so that it can be told.
        file.take(Logo::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let logo = match read {
        Ok(bytes) => Logo::parse(&bytes).map_err(|problem| format!("{} {problem}", path.display())),
        Err(error) => Err(format!("{} can't be read: {error}", path.display())),
    };
    match logo {
        Ok(logo) => {
            sources.push(path);
            Some(logo)
        }
        Err(problem) => {
            report.add("ui.logo", problem);
            None
        }
    }
}

/// The file's text without the line end that editors and `echo` leave behind.
fn read_secret(path: &Path) -> std::io::Result<Secret<String>> {
    let mut text = read_text(path, LONGEST_SECRET)?;
    let trimmed = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    let secret = Secret::from(trimmed);
    text.zeroize();
    if secret.expose().is_empty() {
        return Err(std::io::Error::other("it is empty"));
    }
    Ok(secret)
}

fn read_text(path: &Path, longest: u64) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(longest + 1).read_to_string(&mut text)?;
    if text.len() as u64 > longest {
        text.zeroize();
        return Err(std::io::Error::other(format!("it is longer than {longest} bytes")));
    }
    Ok(text)
}

/// A layer that has been read already, for the `config` crate to merge.
#[derive(Clone, Debug)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Checks `text` as if it were a file, without touching any file. For the tests of this module and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(super) fn check_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let mut report = Report::default();
    let environment: Vec<_> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let Some(raw) = merge(Some(("nullpass.toml", text)), &environment, &Overrides::default(), &mut report) else {
        return Err(report.into_problems());
    };
    let checked = check::check(&raw, &SecretFiles::default(), &mut report);
    if report.has_problems() {
        return Err(report.into_problems());
    }
    Ok(Loaded { config: checked.config, dangers: checked.dangers, sources: Vec::new(), raw })
}
