//! `nullpass user`.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};

use super::state::{self, State};
use super::table::{self, Table, harmless};
use super::{Failure, OnState, ask, output};
use crate::admin::UserRow;
use crate::admin::command::{Answer, Command, PAGE, Who};
use crate::model::{Email, Group};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Make an account, whatever accounts.registration says
    Add {
        /// The e-mail address to sign in with
        email: Email,
        /// What people call the person
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A group to be in; may be given again
        #[arg(long, value_name = "GROUP")]
        group: Vec<Group>,
        /// Make the person an administrator of nullpass
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// List accounts in the order they were made
    List {
        /// Only those whose address or name contains this
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Only the members of this group
        #[arg(long, value_name = "GROUP")]
        group: Option<Group>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show an account
    Show {
        #[command(flatten)]
        who: Person,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Set a new password; all of the person's sessions end
    SetPassword {
        #[command(flatten)]
        who: Person,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Replace the groups a person is in, from the next request on
    SetGroups {
        #[command(flatten)]
        who: Person,
        /// All groups the person is in from now on
        #[arg(required_unless_present = "none")]
        group: Vec<Group>,
        /// In no group at all
        #[arg(long, conflicts_with = "group")]
        none: bool,
    },
    /// Keep a person out: sessions end and API tokens stop working
    Disable(Person),
    /// Let a disabled person in again
    Enable(Person),
    /// Lift the waiting time after wrong passwords and codes
    Unlock(Person),
    /// Take the second factor away from somebody who has lost it; all of the person's sessions end
    #[command(name = "reset-2fa")]
    ResetSecondFactor(Person),
    /// Delete an account with all that belongs to it
    Delete {
        #[command(flatten)]
        who: Person,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// The account that is meant.
#[derive(Debug, Args)]
pub(super) struct Person {
    /// The account's e-mail address, or its id
    #[arg(value_name = "EMAIL")]
    pub(super) who: Who,
}

/// Never an argument: those can be read by every process of the machine, and stay in the shell's history.
#[derive(Debug, Args)]
pub(super) struct PasswordSource {
    /// Take the password from the first line of standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

pub(super) fn run(arguments: OnState<Action>) -> Result<(), Failure> {
    state::with(&arguments.file, |state| act(state, arguments.action))
}

fn act(state: &mut State, action: Action) -> Result<(), Failure> {
    match action {
        Action::Add { email, name, group, admin, password } => {
            let password = ask::new_password(password.password_stdin)?;
            let groups = group.into_iter().collect();
            let user = state.ask_user(Command::UserAdd { email, password, display_name: name, groups, administrator: admin })?;
            output::line(&format!("made the account {} ({})", user.email, user.id))
        }
        Action::List { search, group, json } => list(state, search.as_ref(), group.as_ref(), json),
        Action::Show { who, json } => {
            let user = state.ask_user(Command::UserShow { who: who.who })?;
            if json { output::json(&user) } else { output::text(&details(&user)) }
        }
        Action::SetPassword { who, password } => {
            let password = ask::new_password(password.password_stdin)?;
            let user = state.ask_user(Command::UserSetPassword { who: who.who, password })?;
            output::line(&format!("{} has a new password, and all sessions have ended", user.email))
        }
        Action::SetGroups { who, group, none: _ } => {
            let groups: BTreeSet<_> = group.into_iter().collect();
            let user = state.ask_user(Command::UserSetGroups { who: who.who, groups })?;
            let groups = joined(&user.groups);
            output::line(&format!("{} is now in {}", user.email, if groups.is_empty() { "no group" } else { &groups }))
        }
        Action::Disable(who) => {
            let user = state.ask_user(Command::UserDisable { who: who.who })?;
            output::line(&format!("{} is disabled, and all sessions have ended", user.email))
        }
        Action::Enable(who) => {
            let user = state.ask_user(Command::UserEnable { who: who.who })?;
            output::line(&format!("{} is enabled", user.email))
        }
        Action::Unlock(who) => {
            let user = state.ask_user(Command::UserUnlock { who: who.who })?;
            output::line(&format!("{} may try again at once", user.email))
        }
        Action::ResetSecondFactor(who) => {
            let user = state.ask_user(Command::UserResetSecondFactor { who: who.who })?;
            output::line(&format!("{} has no second factor any more, and all sessions have ended", user.email))
        }
        Action::Delete { who, yes } => {
            // Before the question, so that nobody confirms the deletion of an account that is not there.
            let user = state.ask_user(Command::UserShow { who: who.who })?;
            ask::confirm(&format!("Delete {} with all sessions and API tokens, for ever?", user.email), yes)?;
            let Answer::Done = state.ask(Command::UserDelete { who: Who::Id(user.id) })? else { return Err(state::unexpected()) };
            output::line(&format!("deleted the account {}", user.email))
        }
    }
}

/// Page by page, so that a long list needs no long answer.
fn list(state: &mut State, search: Option<&String>, group: Option<&Group>, json: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let command = Command::UserList { search: search.cloned(), group: group.cloned(), after };
        let Answer::Users(page) = state.ask(command)? else { return Err(state::unexpected()) };
        let full = page.len() >= PAGE;
        after = page.last().map(|user| user.id);
        all.extend(page);
        if !full {
            break;
        }
    }
    if json {
        return output::json(&all);
    }
    let mut table = Table::new(["EMAIL", "NAME", "GROUPS", "2FA", "STATE", "MADE"]);
    for user in &all {
        table.row([
            user.email.to_string(),
            user.display_name.as_ref().map(ToString::to_string).unwrap_or_default(),
            joined(&user.groups),
            (if user.two_factor { "on" } else { "off" }).to_owned(),
            (if user.disabled_at.is_some() { "disabled" } else { "enabled" }).to_owned(),
            table::time(&user.created_at),
        ]);
    }
    output::text(&table.render())
}

fn details(user: &UserRow) -> String {
    let second_factor = if user.two_factor { format!("on, {} recovery codes left", user.recovery_codes) } else { "off".to_owned() };
    let state = match &user.disabled_at {
        Some(since) => format!("disabled since {}", table::time(since)),
        None => "enabled".to_owned(),
    };
    let attributes = user.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    let rows = [
        ("id", user.id.to_string()),
        ("email", user.email.to_string()),
        ("name", user.display_name.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("groups", joined(&user.groups)),
        ("attributes", attributes),
        ("state", state),
        ("second factor", second_factor),
        ("password set", table::time(&user.password_changed_at)),
        ("made", table::time(&user.created_at)),
        ("changed", table::time(&user.updated_at)),
    ];
    let lines = rows.map(|(name, value)| format!("{name:<15}{}\n", if value.is_empty() { "-".to_owned() } else { harmless(&value) }));
    lines.concat()
}

fn joined(groups: &BTreeSet<Group>) -> String {
    groups.iter().map(Group::as_str).collect::<Vec<_>>().join(", ")
}
