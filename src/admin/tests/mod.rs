//! Commands against a real store, the socket with a real kernel, and the listener with real connections.

mod commands;
mod listener;
mod socket;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::UserRow;
use super::command::{Answer, Command, CommandError, Who, execute};
use crate::app;
use crate::auth::Auth;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::Config;
use crate::model::{Group, Secret};
use crate::tasks::Tasks;

const START: Timestamp = Timestamp::from_secs(1_700_000_000);
const PASSWORD: &str = "a quite long pass phrase";

struct House {
    auth: Arc<Auth>,
    clock: Clock,
    hands: ManualClock,
    folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.path = folder.path().join("data");
        config.accounts.argon2.memory_kib = 64;
        config.accounts.argon2.iterations = 1;
        let (clock, hands) = Clock::manual(START);
        let auth = app::open_auth(&config, &clock).await.unwrap();
        Self { auth, clock, hands, folder }
    }

    async fn ask(&self, command: Command) -> Result<Answer, CommandError> {
        execute(&self.auth, command, self.clock.now()).await
    }

    async fn user(&self, command: Command) -> UserRow {
        match self.ask(command).await {
            Ok(Answer::User(user)) => user,
            other => panic!("{other:?}"),
        }
    }

    async fn add(&self, email: &str) -> UserRow {
        self.user(add(email, PASSWORD)).await
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }
}

fn add(email: &str, password: &str) -> Command {
    Command::UserAdd {
        email: email.parse().unwrap(),
        password: Secret::from(password),
        display_name: None,
        groups: BTreeSet::new(),
        administrator: false,
    }
}

fn who(text: &str) -> Who {
    text.parse().unwrap()
}

fn groups(names: &[&str]) -> BTreeSet<Group> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}
