//! Where commands about the state go: over the socket to a running server, or to the store when none runs.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::{ConfigFile, Failure, output};
use crate::admin::command::{Answer, Command, CommandError, execute};
use crate::admin::socket::{self, CallError};
use crate::app;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Config, LoadOptions, load as load_config, process_environment};

/// The state, whoever holds it.
pub(super) struct State {
    runtime: Runtime,
    config: Config,
    socket: PathBuf,
    clock: Clock,
    /// Ours, once no server was found.
    opened: Option<Arc<Auth>>,
}

impl State {
    /// Reads the configuration; nothing else happens before the first question.
    pub(super) fn new(file: &ConfigFile) -> Result<Self, Failure> {
        let config = load(file)?;
        let socket = config.storage.path.join(&config.admin.socket);
        Ok(Self { runtime: runtime()?, config, socket, clock: Clock::system(), opened: None })
    }

    /// Has `command` done.
    pub(super) fn ask(&mut self, command: Command) -> Result<Answer, Failure> {
        let Self { runtime, config, socket, clock, opened } = self;
        runtime.block_on(async {
            let auth = match opened {
                Some(auth) => auth,
                None => match socket::call(socket, &command).await {
                    Ok(answer) => return Ok(answer),
                    Err(CallError::NoServer) => {
                        let auth = app::open_auth(config, clock).await.map_err(|error| {
                            let hint = format!("no server answers at {}, and its store can't be opened without it", socket.display());
                            Failure::Failed(format!("{hint}: {}", super::chain(&error)))
                        })?;
                        opened.insert(auth)
                    }
                    Err(error) => return Err(Failure::failed(&error)),
                },
            };
            execute(auth, command, clock.now()).await.map_err(|error: CommandError| Failure::failed(&error))
        })
    }

    /// Has `command` done and expects an account.
    pub(super) fn ask_user(&mut self, command: Command) -> Result<crate::admin::UserRow, Failure> {
        let Answer::User(user) = self.ask(command)? else { return Err(unexpected()) };
        Ok(user)
    }

    /// Closes the store if it was opened here.
    pub(super) fn close(self) -> Result<(), Failure> {
        match self.opened {
            Some(auth) => self.runtime.block_on(auth.close()).map_err(|error| Failure::failed(&error)),
            None => Ok(()),
        }
    }
}

/// Runs `work` on the state and closes it, whatever came of the work.
pub(super) fn with<R>(file: &ConfigFile, work: impl FnOnce(&mut State) -> Result<R, Failure>) -> Result<R, Failure> {
    let mut state = State::new(file)?;
    let result = work(&mut state);
    let closed = state.close();
    match (result, closed) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), closed) => {
            if let Err(second) = closed {
                output::problem(&second);
            }
            Err(failure)
        }
    }
}

/// The configuration, which need not name an upstream.
pub(super) fn load(file: &ConfigFile) -> Result<Config, Failure> {
    let options =
        LoadOptions { file: file.config.clone(), environment: process_environment(), without_upstream: true, ..LoadOptions::default() };
    load_config(&options).map(|loaded| loaded.config).map_err(|problems| Failure::Usage(problems.to_string()))
}

/// A runtime for one short conversation.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("can't start: {error}")))
}

/// An answer to another question, which only a server of another version could give.
pub(super) fn unexpected() -> Failure {
    Failure::failed(&CallError::OtherVersion)
}
