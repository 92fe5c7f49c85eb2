//! One-time names for sessions that were asked for and not yet taken up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use super::{AttachParams, ExecParams, PortForwardParams};

/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(60);
/// When so many wait, the oldest is forgotten.
const MAX_WAITING: usize = 1000;

#[derive(Debug, Clone)]
pub(super) enum Session {
    Exec(ExecParams),
    Attach(AttachParams),
    PortForward(PortForwardParams),
}

impl Session {
    fn path(&self) -> &'static str {
        match self {
            Session::Exec(_) => "exec",
            Session::Attach(_) => "attach",
            Session::PortForward(_) => "portforward",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (Instant, Session)>>);

impl Tokens {
    /// Stores a session and answers its token.
    pub(super) fn put(&self, session: Session) -> String {
        let mut bytes = [0; 16];
        // The kernel's source of randomness does not fail once the machine is up; a token that
        // can be guessed would still be good for a local port only.
        if SystemRandom::new().fill(&mut bytes).is_err() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            bytes = now.unwrap_or_default().as_nanos().to_le_bytes();
        }
        let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| since.elapsed() < LIFETIME);
        if waiting.len() >= MAX_WAITING {
            let oldest = waiting.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(token, _)| token.clone()) {
                waiting.remove(&oldest);
            }
        }
        waiting.insert(token.clone(), (Instant::now(), session));
        token
    }

    /// Takes a session; its token is used up.
    pub(super) fn take(&self, path: &str, token: &str) -> Option<Session> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.get(token)?.1.path() != path {
            return None;
        }
        let (since, session) = waiting.remove(token)?;
        (since.elapsed() < LIFETIME).then_some(session)
    }
}

#[test]
fn a_token_works_once_and_where_it_belongs() {
    let tokens = Tokens::default();
    let token = tokens.put(Session::Exec(ExecParams::default()));
    assert!(tokens.take("attach", &token).is_none());
    assert!(tokens.take("exec", "other").is_none());
    assert!(tokens.take("exec", &token).is_some());
    assert!(tokens.take("exec", &token).is_none());
}

#[test]
fn the_oldest_gives_way() {
    let tokens = Tokens::default();
    let first = tokens.put(Session::Exec(ExecParams::default()));
    let others: Vec<_> = (0..MAX_WAITING)
        .map(|_| tokens.put(Session::Exec(ExecParams::default())))
        .collect();
    assert!(tokens.take("exec", &first).is_none());
    assert!(
        others
            .iter()
            .all(|token| tokens.take("exec", token).is_some())
    );
}
