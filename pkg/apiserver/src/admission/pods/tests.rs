use serde_json::json;

use super::outside;

#[test]
fn a_request_above_the_maximum_is_refused_like_a_limit_above_it() {
    let item = json!({"min": {"cpu": "50m"}, "max": {"cpu": "500m"}});
    let mut out = Vec::new();
    outside(&item, "Container", &json!({"requests": {"cpu": "600m"}, "limits": {"cpu": "500m"}}), &mut out);
    assert_eq!(out, ["maximum cpu usage per Container is 500m, but request is 600m"]);
    out.clear();
    outside(&item, "Container", &json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "500m"}}), &mut out);
    assert!(out.is_empty(), "{out:?}");
    outside(&item, "Container", &json!({"requests": {"cpu": "10m"}}), &mut out);
    assert_eq!(out.len(), 2, "{out:?}");
}
