//! Shuffle sharding: a flow's hand of queues, dealt from its hash, so that two flows rarely share
//! all of theirs.

/// The largest hand: as many cards as fit 60 bits.
const HAND: usize = 15;

/// Deals `hand` different cards out of `deck` to `pick`, the same ones for the same hash.
///
/// Takes the digits of the hash in a number system whose base shrinks by one for each card, so
/// that all hands are equally likely.
pub fn deal(mut hash: u64, deck: usize, hand: usize, mut pick: impl FnMut(usize)) {
    let mut dealt = [0usize; HAND];
    let hand = hand.min(HAND).min(deck);
    for i in 0..hand {
        let left = (deck - i) as u64;
        let mut card = usize::try_from(hash % left).unwrap_or(0);
        hash /= left;
        // The digit counts the cards that are left: those dealt already are stepped over, the
        // lowest first.
        let sorted = &mut dealt[..i + 1];
        let mut at = 0;
        while at < i && card >= sorted[at] {
            card += 1;
            at += 1;
        }
        sorted[at..].rotate_right(1);
        sorted[at] = card;
        pick(card);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(hash: u64, deck: usize, size: usize) -> Vec<usize> {
        let mut all = Vec::new();
        deal(hash, deck, size, |c| all.push(c));
        all
    }

    #[test]
    fn all_hands_are_different_cards_and_equally_likely() {
        // 5 · 4 · 3 hands, each once.
        let mut seen = std::collections::HashSet::new();
        for hash in 0..60 {
            let h = hand(hash, 5, 3);
            let cards: std::collections::HashSet<_> = h.iter().collect();
            assert_eq!((h.len(), cards.len()), (3, 3), "{h:?}");
            assert!(h.iter().all(|c| *c < 5));
            assert!(seen.insert(h));
        }
        assert_eq!(hand(7, 1, 1), [0]);
    }
}
