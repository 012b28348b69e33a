//! Who is asking: what rules decide by and upstreams are told. Built from the store's state, never from a token's
//! claims (requirements SES-2, ENV-2).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{Amr, DisplayName, Email, Fitness, Group, SessionId, User, UserId};
use crate::clock::Timestamp;

/// A person, as known at this moment, through one session or API token.
#[derive(Debug)]
pub struct Identity {
    /// The account.
    pub user: UserId,
    /// Its address.
    pub email: Email,
    /// What people call the person.
    pub display_name: Option<DisplayName>,
    /// Its groups.
    pub groups: BTreeSet<Group>,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Whether the account has a second factor, so that one can be asked for.
    pub has_second_factor: bool,
    /// The session; `None`: an API token or Basic authentication.
    pub session: Option<SessionId>,
    /// How the person proved who they are.
    pub amr: Amr,
    /// When. For an API token: when it was made.
    pub auth_time: Timestamp,
    /// What the session may be used for.
    pub fitness: Fitness,
    /// Header values made from the above; see [`Slot`].
    pub slot: Slot,
}

impl Identity {
    /// From an account and the facts of one session or token.
    pub fn of(user: &User, session: Option<SessionId>, amr: Amr, auth_time: Timestamp, fitness: Fitness) -> Self {
        Self {
            user: user.id,
            email: user.email.clone(),
            display_name: user.display_name.clone(),
            groups: user.groups.clone(),
            attributes: user.attributes.clone(),
            has_second_factor: user.has_second_factor(),
            session,
            amr,
            auth_time,
            fitness,
            slot: Slot::default(),
        }
    }
}

/// A place for something that is made once from an [`Identity`] and that `model` need not know: the prepared header
/// values of `wire::header`. An `Identity` never changes, so neither does what was made from it.
#[derive(Default)]
pub struct Slot(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Slot {
    /// What was put here, made by `make` the first time. `None`: something of another type is here already.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Arc::new(make())).downcast_ref()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
