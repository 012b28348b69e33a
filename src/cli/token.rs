//! `nullpass token`: personal API tokens.

use std::time::Duration;

use clap::Subcommand;

use super::state::{self, State};
use super::table::{self, Table};
use super::user::Person;
use super::{Failure, OnState, output};
use crate::admin::TokenRow;
use crate::admin::command::{Answer, Command, Who};
use crate::config;
use crate::model::ApiTokenId;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Make an API token for a person and print it, once
    Create {
        #[command(flatten)]
        who: Person,
        /// What the token is for
        #[arg(long, value_name = "NAME")]
        name: String,
        /// How long it is good, such as 90d; else until it is revoked
        #[arg(long, value_name = "DURATION", value_parser = life)]
        expires: Option<Duration>,
        /// Only paths that match this, as in [[rules]]; may be given again
        #[arg(long, value_name = "GLOB")]
        path: Vec<String>,
        /// Only this method, such as GET; may be given again
        #[arg(long, value_name = "METHOD")]
        method: Vec<String>,
        /// Only from this network, such as 10.0.0.0/8; may be given again
        #[arg(long, value_name = "CIDR")]
        network: Vec<String>,
    },
    /// List a person's API tokens, without their secrets
    List {
        #[command(flatten)]
        who: Person,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// End an API token: its next use is refused
    #[command(allow_missing_positional = true)]
    Revoke {
        /// Only if it is this account's
        #[arg(value_name = "EMAIL")]
        who: Option<Who>,
        /// The token's id, as `nullpass token list` shows it
        id: ApiTokenId,
    },
}

fn life(text: &str) -> Result<Duration, String> {
    let life = config::parse_duration(text)?;
    if life.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(life) }
}

pub(super) fn run(arguments: OnState<Action>) -> Result<(), Failure> {
    state::with(&arguments.file, |state| act(state, arguments.action))
}

fn act(state: &mut State, action: Action) -> Result<(), Failure> {
    match action {
        Action::Create { who, name, expires, path, method, network } => {
            let command = Command::TokenCreate { who: who.who, name, life: expires, paths: path, methods: method, networks: network };
            let Answer::NewToken { secret, token } = state.ask(command)? else { return Err(state::unexpected()) };
            let end = token.expires_at.map_or_else(|| "it is revoked".to_owned(), |end| table::time(&end));
            output::note(&format!("this token ({}) is good until {end} and is not shown again:", token.id));
            output::line(secret.expose())
        }
        Action::List { who, json } => {
            let Answer::Tokens(tokens) = state.ask(Command::TokenList { who: who.who })? else { return Err(state::unexpected()) };
            if json { output::json(&tokens) } else { output::text(&render(&tokens)) }
        }
        Action::Revoke { who, id } => {
            let Answer::Done = state.ask(Command::TokenRevoke { who, id })? else { return Err(state::unexpected()) };
            output::line(&format!("ended the API token {id}"))
        }
    }
}

fn render(tokens: &[TokenRow]) -> String {
    let mut table = Table::new(["ID", "NAME", "MADE", "LAST USED", "ENDS", "LIMITED TO"]);
    for token in tokens {
        let time = |time: &Option<String>| time.as_deref().map(table::time).unwrap_or_default();
        let limits = [&token.methods, &token.paths, &token.networks].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
        table.row([
            token.id.to_string(),
            token.name.clone(),
            table::time(&token.created_at),
            time(&token.last_used_at),
            time(&token.expires_at),
            limits.join(" "),
        ]);
    }
    table.render()
}
