//! The command line: one file a command. Those that ask about or change the state are clients of a running server's
//! socket, or of the store when no server runs; see `state`.

mod ask;
mod audit;
mod completions;
mod config;
mod demo;
mod demo_upstream;
mod health;
mod key;
mod migrate;
mod output;
mod progress;
mod selftest;
mod serve;
mod session;
mod state;
mod table;
mod token;
mod user;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::store::sled::OPENING;

/// Runs what the process' arguments say. The exit code is 0: done, 1: failed, 2: wrong usage or configuration.
pub fn run() -> ExitCode {
    leave_no_core();
    tell_panics_briefly();
    let arguments = match CommandLine::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version come this way too, with code 0 and on standard output.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::problem(&failure);
            failure.exit_code()
        }
    }
}

/// Keeps keys and passwords out of core files, and the process's memory from others of the same user (`PR_SET_DUMPABLE`,
/// prctl(2)). A kernel that refuses changes nothing else.
fn leave_no_core() {
    let _refused = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Says where a panic was, in one line of the log, and its text only when it is a constant: one that was put together at
/// run time can hold a password or a key. Nothing of those that say by an error that they broke off.
fn tell_panics_briefly() {
    std::panic::set_hook(Box::new(|panic| {
        if std::thread::current().name() == Some(OPENING) {
            return;
        }
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("its text is left out, for it may hold data");
        if tracing::dispatcher::has_been_set() {
            tracing::error!(at, what, "a thread panicked, which is a bug");
        } else {
            output::note(&format!("error: a thread panicked, which is a bug: {at}: {what}"));
        }
    }));
}

/// nullpass: sign-in, two-factor authentication and sessions in front of any web application.
#[derive(Debug, Parser)]
#[command(name = "nullpass", version, args_conflicts_with_subcommands = true, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar (also without this word)
    Serve(serve::Arguments),
    /// Try everything in one command: the sidecar, a page behind it, data in a temporary folder
    Demo(demo::Arguments),
    /// Ask the running server whether it is ready: exit 0 when it is, 1 when not
    Health(ConfigFile),
    /// Check the configuration, or print a complete commented one
    Config(config::Arguments),
    /// Manage accounts
    User(OnState<user::Action>),
    /// List and end sessions
    Session(OnState<session::Action>),
    /// Manage personal API tokens
    Token(OnState<token::Action>),
    /// Send the corpus of attacks to an instance that runs: exit 1 when something surprises
    Selftest(selftest::Arguments),
    /// List and rotate the signing keys, and replace the storage key
    Key(OnState<key::Action>),
    /// Show the audit log, export it, and prove that it is whole
    Audit(OnState<audit::Verb>),
    /// Carry all state from one kind of store to the other
    Migrate(migrate::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

/// What `--help` says about `--config`.
const CONFIG_HELP: &str =
    "The configuration; else $NULLPASS_CONFIG, ./nullpass.toml, ./config/nullpass.toml or /etc/nullpass/nullpass.toml";

/// `--config`, wherever it stands after the command.
#[derive(Debug, Args)]
struct ConfigFile {
    #[arg(long, value_name = "FILE", global = true, help = CONFIG_HELP)]
    config: Option<PathBuf>,
}

/// What a command takes that does one of several things with the state.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
struct OnState<A: Subcommand> {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: A,
}

fn dispatch(arguments: CommandLine) -> Result<(), Failure> {
    match arguments.command {
        None => serve::run(arguments.serve),
        Some(Command::Serve(arguments)) => serve::run(arguments),
        Some(Command::Demo(arguments)) => demo::run(arguments),
        Some(Command::Health(file)) => health::run(&file),
        Some(Command::Config(arguments)) => config::run(arguments),
        Some(Command::User(arguments)) => user::run(arguments),
        Some(Command::Session(arguments)) => session::run(arguments),
        Some(Command::Token(arguments)) => token::run(arguments),
        Some(Command::Selftest(arguments)) => selftest::run(&arguments),
        Some(Command::Key(arguments)) => key::run(arguments),
        Some(Command::Audit(arguments)) => audit::run(arguments),
        Some(Command::Migrate(arguments)) => migrate::run(arguments),
        Some(Command::Completions(arguments)) => completions::run(&arguments),
    }
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Wrong usage or configuration: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Nobody reads what we write, as in `nullpass user list | head`: silence.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(chain(error))
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) | Self::OutputClosed => ExitCode::FAILURE,
        }
    }
}

/// From writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(format!("can't write the output: {error}"))
        }
    }
}

/// An error with what is behind it, on one line; what is said already is not said again.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(std::iter::once("nullpass").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn serve_is_what_happens_without_a_command() {
        for line in ["", "--config x.toml", "--listen 127.0.0.1:1 --upstream http://127.0.0.1:2"] {
            assert!(parse(line).is_ok_and(|arguments| arguments.command.is_none()), "{line}");
            let line = format!("serve {line}");
            assert!(matches!(parse(&line), Ok(CommandLine { command: Some(Command::Serve(_)), .. })), "{line}");
        }
    }

    #[test]
    fn every_command_parses() {
        for line in [
            "demo",
            "demo --data d --listen 127.0.0.1:0",
            "health",
            "health --config x",
            "config check",
            "config check --config x",
            "config default",
            "user add a@b.de",
            "user add a@b.de --name N --group a --group b --admin --password-stdin",
            "user list",
            "user list --json --search a --group b",
            "user --config x list",
            "user list --config x",
            "user show a@b.de --json",
            "user set-password a@b.de --password-stdin",
            "user set-groups a@b.de x y",
            "user set-groups a@b.de --none",
            "user disable a@b.de",
            "user enable a@b.de",
            "user unlock a@b.de",
            "user reset-2fa a@b.de",
            "user delete a@b.de --yes",
            "user show 0190163d-8694-739b-aea5-966c26f8ad91",
            "session list a@b.de --json",
            "session revoke 0190163d-8694-739b-aea5-966c26f8ad91",
            "session revoke --user a@b.de",
            "token create a@b.de --name n --expires 90d --path /a/** --path /b --method GET --network 10.0.0.0/8",
            "token list a@b.de --json",
            "token revoke a@b.de 0190163d-8694-739b-aea5-966c26f8ad91",
            "token revoke 0190163d-8694-739b-aea5-966c26f8ad91",
            "completions bash",
            "key list",
            "key list --json --config x",
            "key rotate",
            "key rotate --storage",
            "key rotate --json",
            "audit list",
            "audit list --since 24h --user a@b.de --action LOGIN_FAILED --json --limit 10",
            "audit list --since 2026-01-31 --user 0190163d-8694-739b-aea5-966c26f8ad91",
            "audit export --since 2026-01-31T10:00:00+01:00 --action login_failed",
            "audit export --heads",
            "audit verify --against heads.jsonl --json",
            "migrate --from sled --to postgres --config x",
            "migrate --from postgres --to sled --dry-run",
            "selftest --against http://127.0.0.1:8080 --json",
            "selftest --against https://a.example --allow-host a.example --ca ca.pem --prefix /_sso --protected /x --public /y --rate 9",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|error| error.to_string()));
        }
    }

    #[test]
    fn wrong_usage_is_code_two() {
        for line in [
            "nonsense",
            "--nonsense",
            "user",
            "user add",
            "user add nobody",
            "user add a@b.de --password x",
            "user set-password a@b.de x",
            "user set-groups a@b.de",
            "user set-groups a@b.de x --none",
            "user set-groups a@b.de a,b",
            "user import f",
            "session revoke",
            "session revoke x",
            "session revoke 0190163d-8694-739b-aea5-966c26f8ad91 --user a@b.de",
            "token create a@b.de",
            "token create a@b.de --name n --expires never",
            "token create a@b.de --name n --expires 0d",
            "completions tcl",
            "audit",
            "audit list --since yesterday-ish",
            "audit list --since -1h",
            "audit list --action NONSENSE",
            "audit list --user nobody",
            "audit export --heads --action LOGIN_FAILED",
            "audit verify --since 1d",
            "migrate",
            "migrate --from sled",
            "migrate --from sled --to mysql",
            "migrate --from sled --to postgres --force",
            "token revoke",
            "token revoke a@b.de",
            "key",
            "key rotate x",
            "key list --storage",
            "explain http://x/",
            "doctor",
            "--config x user list",
            "health --listen 127.0.0.1:1",
            "selftest",
            "selftest --against http://127.0.0.1 --rate 0",
            "selftest --against http://127.0.0.1 --protected admin",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        assert!(parse("--version").is_err_and(|error| error.exit_code() == 0 && error.kind() == ErrorKind::DisplayVersion));
        assert!(parse("user add --help").is_err_and(|error| error.exit_code() == 0 && error.kind() == ErrorKind::DisplayHelp));
    }

    #[test]
    fn causes_are_said_once() {
        let inner = io::Error::other("disk full");
        let error = crate::admin::socket::BindError::Io { path: "/x".into(), source: inner };
        assert_eq!(chain(&error), "admin.socket: can't listen at /x: disk full");
    }
}
