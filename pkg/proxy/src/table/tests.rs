use super::*;
use knarr_network::nft::ip_ip;

fn with(keys: &[(u8, Option<Verdict>)]) -> Plan {
    let place = |n: u8| (Map::Hairpin, IpFamily::V4, ip_ip([10, 0, 0, n].into(), [10, 0, 0, n].into()));
    Plan { elements: keys.iter().map(|(n, v)| (place(*n), v.clone())).collect(), ..Plan::default() }
}

#[test]
fn a_shared_element_leaves_with_its_last_owner() {
    let mut t = Table::new("t", vec![]);
    let (b, _) = t.update(vec![("a".into(), Some(with(&[(1, None)])))]);
    assert!(!b.is_empty());
    let (b, _) = t.update(vec![("b".into(), Some(with(&[(1, None)])))]);
    assert!(b.is_empty(), "there already");
    let (b, _) = t.update(vec![("a".into(), None)]);
    assert!(b.is_empty(), "b has it still");
    let (b, _) = t.update(vec![("b".into(), None)]);
    assert!(!b.is_empty());
    assert!(t.claims.is_empty());
}

#[test]
fn what_is_the_same_is_not_touched() {
    let mut t = Table::new("t", vec![]);
    t.update(vec![("a".into(), Some(with(&[(1, None)])))]);
    let (b, stale) = t.update(vec![("a".into(), Some(with(&[(1, None)])))]);
    assert!(b.is_empty() && stale.is_empty());
}
