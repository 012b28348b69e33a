//! Who sits on the places under `server.max_connections`: when all are taken, those who have done nothing for the longest
//! are asked to leave, so that a crowd that only sits there keeps nobody out. HTTP lets a server close a connection on
//! which nothing is asked at any time (RFC 9112, section 9.6); a client that asks again opens another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;

/// Who has done nothing for less than this stays: their request may be on its way.
const SETTLED: Duration = Duration::from_secs(1);

/// At most one in so many is asked at a time, so that looking at all of them pays.
const PART: usize = 100;

/// The connections that can be asked.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, Weak<Connection>>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
}

impl Seats {
    pub(super) fn take(this: &Arc<Self>, connection: &Arc<Connection>) -> Seat {
        let mut taken = this.lock();
        let number = taken.next;
        taken.next = number.wrapping_add(1);
        taken.connections.insert(number, Arc::downgrade(connection));
        drop(taken);
        Seat { seats: Arc::clone(this), number }
    }

    /// Asks those to leave who have done nothing for the longest; how many.
    pub(super) fn make_room(&self, now: Instant) -> usize {
        let taken = self.lock();
        let most = (taken.connections.len() / PART).max(1);
        let mut idle: Vec<(Duration, Arc<Connection>)> = taken
            .connections
            .values()
            .filter_map(Weak::upgrade)
            .filter(|connection| connection.activity.may_be_asked_to_leave())
            .map(|connection| (connection.activity.idle_for(now), connection))
            .filter(|(idle, _)| *idle >= SETTLED)
            .collect();
        drop(taken);
        if idle.len() > most {
            idle.select_nth_unstable_by_key(most, |(idle, _)| std::cmp::Reverse(*idle));
            idle.truncate(most);
        }
        for (_, connection) in &idle {
            connection.activity.ask_to_leave();
        }
        idle.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().connections.remove(&self.number);
    }
}
