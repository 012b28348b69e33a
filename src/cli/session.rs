//! `nullpass session`.

use clap::Subcommand;

use super::state::{self, State};
use super::table::{self, Table};
use super::user::Person;
use super::{Failure, OnState, output};
use crate::admin::command::{Answer, Command, Who};
use crate::model::SessionId;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List a person's sessions
    List {
        #[command(flatten)]
        who: Person,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// End one session, or all of a person's: the next request is refused
    Revoke {
        /// The session's id
        #[arg(required_unless_present = "user")]
        id: Option<SessionId>,
        /// All sessions of this account
        #[arg(long, value_name = "EMAIL", conflicts_with = "id")]
        user: Option<Who>,
    },
}

pub(super) fn run(arguments: OnState<Action>) -> Result<(), Failure> {
    state::with(&arguments.file, |state| act(state, arguments.action))
}

fn act(state: &mut State, action: Action) -> Result<(), Failure> {
    let command = match action {
        Action::List { who, json } => return list(state, who, json),
        Action::Revoke { id: Some(id), .. } => Command::SessionRevoke { id },
        Action::Revoke { user: Some(who), .. } => Command::SessionRevokeAll { who },
        Action::Revoke { id: None, user: None } => return Err(Failure::Usage("name a session's id, or --user EMAIL".to_owned())),
    };
    let Answer::Ended(count) = state.ask(command)? else { return Err(state::unexpected()) };
    output::line(&format!("ended {count} session{}", if count == 1 { "" } else { "s" }))
}

fn list(state: &mut State, who: Person, json: bool) -> Result<(), Failure> {
    let Answer::Sessions(sessions) = state.ask(Command::SessionList { who: who.who })? else { return Err(state::unexpected()) };
    if json {
        return output::json(&sessions);
    }
    let mut table = Table::new(["ID", "BEGAN", "LAST SEEN", "ENDS", "BY", "BROWSER"]);
    for session in sessions {
        table.row([
            session.id.to_string(),
            table::time(&session.created_at),
            table::time(&session.last_seen_at),
            table::time(&session.expires_at),
            session.amr.join("+"),
            session.user_agent.unwrap_or_default(),
        ]);
    }
    output::text(&table.render())
}
