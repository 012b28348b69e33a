//! What a changed configuration may change in a process that runs, and what waits for its next start.

use super::{Config, Storage};

impl Config {
    /// This configuration as a process that was started with `running` can take it, and the keys that differ and wait
    /// for the next start: addresses, the store and whatever cookies, tokens and sessions already out there were made by.
    #[must_use]
    pub fn for_running(mut self, running: &Self) -> (Self, Vec<&'static str>) {
        let mut waiting = Vec::new();
        let mut keep = |name, differs: bool| {
            if differs {
                waiting.push(name);
            }
        };
        let (new, old) = (&mut self.server, &running.server);
        keep("server.listen", put_back(&mut new.listen, &old.listen));
        keep("server.public_url", put_back(&mut new.public_url, &old.public_url));
        keep("server.prefix", put_back(&mut new.prefix, &old.prefix));
        keep("server.workers", put_back(&mut new.workers, &old.workers));
        keep("server.danger_plain_http", put_back(&mut new.danger_plain_http, &old.danger_plain_http));
        // Whether there is TLS at all decides what cookies are called; which certificates does not.
        if new.tls.is_some() != old.tls.is_some() {
            keep("server.tls", put_back(&mut new.tls, &old.tls));
        }
        if let (Some(new), Some(old)) = (&mut new.tls, &old.tls) {
            keep("server.tls.http_redirect", put_back(&mut new.http_redirect, &old.http_redirect));
        }
        keep("admin", put_back(&mut self.admin, &running.admin));
        keep("accounts.admin_group", put_back(&mut self.accounts.admin_group, &running.accounts.admin_group));
        keep("accounts.bootstrap_admin", put_back(&mut self.accounts.bootstrap_admin, &running.accounts.bootstrap_admin));
        keep("accounts.argon2", put_back(&mut self.accounts.argon2, &running.accounts.argon2));
        keep("tokens", put_back(&mut self.tokens, &running.tokens));
        keep("sessions", put_back(&mut self.sessions, &running.sessions));
        // The master keys are taken over, or the whole is refused; whether there is any is decided at the start.
        let (master, previous) = (self.storage.master_key.take(), self.storage.previous_master_key.take());
        let bare = Storage { master_key: None, previous_master_key: None, ..running.storage.clone() };
        keep("storage", put_back(&mut self.storage, &bare));
        let is_given = master.is_some() == running.storage.master_key.is_some();
        keep("storage.master_key", !is_given);
        let kept = (running.storage.master_key.clone(), running.storage.previous_master_key.clone());
        (self.storage.master_key, self.storage.previous_master_key) = if is_given { (master, previous) } else { kept };
        keep("log.format", put_back(&mut self.log.format, &running.log.format));
        keep("log.access", put_back(&mut self.log.access, &running.log.access));
        (self, waiting)
    }
}

/// Makes `new` what `old` is; whether they differed.
fn put_back<T: Clone + PartialEq>(new: &mut T, old: &T) -> bool {
    let differs = new != old;
    if differs {
        new.clone_from(old);
    }
    differs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Access, Listen};
    use super::*;

    #[test]
    fn rules_upstreams_limits_and_texts_change_while_it_runs() {
        let running = Config::default();
        let mut new = running.clone();
        new.default_policy = Access::Deny;
        new.server.header_timeout = Duration::from_secs(3);
        new.server.allowed_hosts = vec!["a.example".to_owned()];
        new.limits.max_body = Some(1);
        new.log.level = tracing::Level::DEBUG;
        new.ui.name = "Door".to_owned();
        new.two_factor.always_required = true;
        new.accounts.password.min_length = 20;
        assert_eq!(new.clone().for_running(&running), (new, Vec::new()));
    }

    #[test]
    fn master_keys_change_and_whether_there_is_one_does_not() {
        let key = |byte: u8| Some(crate::model::Secret::new(vec![byte; 32]));
        let mut running = Config::default();
        let mut new = running.clone();
        (new.storage.master_key, new.storage.previous_master_key) = (key(2), key(1));
        let (kept, waiting) = new.clone().for_running(&running);
        assert_eq!((kept, waiting), (running.clone(), vec!["storage.master_key"]));
        running.storage.master_key = key(1);
        assert_eq!(new.clone().for_running(&running), (new.clone(), Vec::new()));
        new.storage.path = "elsewhere".into();
        let (kept, waiting) = new.for_running(&running);
        assert_eq!(waiting, ["storage"]);
        assert_eq!((kept.storage.master_key, kept.storage.path), (key(2), running.storage.path));
    }

    #[test]
    fn what_needs_a_restart_is_named_and_stays_as_it_is() {
        let running = Config::default();
        let mut new = running.clone();
        new.server.listen = vec![Listen::Unix("/run/other.sock".into())];
        new.server.prefix = "/_sso".to_owned();
        new.sessions.max_lifetime = Duration::from_secs(1);
        new.storage.path = "elsewhere".into();
        let (kept, waiting) = new.for_running(&running);
        assert_eq!(kept, running);
        assert_eq!(waiting, ["server.listen", "server.prefix", "sessions", "storage"]);
    }
}
