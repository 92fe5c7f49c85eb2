//! What clients that are refused are told to wait: longer while many are.

use std::collections::VecDeque;

/// The most, in seconds.
const MOST: u64 = 32;

/// The refusals of one priority level in the last seconds.
#[derive(Debug)]
pub struct Retry {
    /// Seconds, and how many were refused in each.
    history: VecDeque<(u64, u64)>,
    after: u64,
    raised: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { history: VecDeque::new(), after: 1, raised: 0 }
    }
}

impl Retry {
    /// A request was refused in this second; answers how many seconds its client is to wait.
    pub fn refused(&mut self, now: u64) -> u64 {
        match self.history.back_mut() {
            Some((second, n)) if *second == now => *n += 1,
            _ => {
                self.adjust(now);
                self.history.push_back((now, 1));
            }
        }
        self.after
    }

    /// Doubles it where three a second were refused of late, and takes one off where fewer than
    /// one a second were.
    fn adjust(&mut self, now: u64) {
        let kept = (2 * self.after).min(MOST);
        while self.history.front().is_some_and(|(s, _)| now.saturating_sub(*s) > kept) {
            self.history.pop_front();
        }
        let recent = self.history.iter().filter(|(s, _)| now.saturating_sub(*s) <= self.after);
        let refused: u64 = recent.map(|(_, n)| n).sum();
        if refused >= 3 * self.after && now.saturating_sub(self.raised) >= self.after {
            self.after = (2 * self.after).min(MOST);
            self.raised = now;
        } else if refused < self.after && self.after > 1 {
            self.after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_wait_longer_while_many_are_refused() {
        let mut r = Retry::default();
        let second = |r: &mut Retry, s: u64, n: u64| (0..n).map(|_| r.refused(s)).last();
        assert_eq!(second(&mut r, 100, 5), Some(1));
        assert_eq!(second(&mut r, 101, 10), Some(2));
        // Not again before those two seconds are over.
        assert_eq!(second(&mut r, 102, 10), Some(2));
        assert_eq!(second(&mut r, 103, 10), Some(4));
        // It is quiet again: less, a second at a time.
        assert_eq!((second(&mut r, 200, 1), second(&mut r, 201, 1)), (Some(3), Some(2)));
    }
}
