use super::*;

#[test]
fn keys_are_padded_to_registers() {
    let k = ip_proto_port("10.0.0.1".parse().unwrap(), Protocol::Udp, 53);
    assert_eq!(k, [10, 0, 0, 1, 17, 0, 0, 0, 0, 53, 0, 0]);
    assert_eq!(ip_port("1.2.3.4".parse().unwrap(), 258), [1, 2, 3, 4, 1, 2, 0, 0]);
    assert_eq!(datatype::concat(&[7, 12, 13]), 7 << 12 | 12 << 6 | 13);
}

#[test]
fn networks_become_masks() {
    let r = Rule::any().saddr_in("10.244.7.9".parse().unwrap(), 20, true);
    let Expr::Bitwise { mask, .. } = &r.0[1] else { panic!("{r:?}") };
    assert_eq!(mask, &[255, 255, 240, 0]);
    let Expr::Cmp { data, .. } = &r.0[2] else { panic!("{r:?}") };
    assert_eq!(data, &[10, 244, 0, 0]);
}
