use super::*;

#[test]
fn the_table_is_whole() {
    let catalog = Catalog::builtin();
    for row in catalog.resources() {
        assert!(row.kind.is_empty() || row.ty.is_some(), "{} has no type", row.qualified());
        if row.allows("list") {
            assert!(types().kind(&row.group, &row.version, &row.list_kind).is_some(), "{} has no list type", row.qualified());
        }
    }
    let pods = catalog.lookup("", "v1", "pods").unwrap();
    assert_eq!(pods.key("/registry", Some("default"), "web"), "/registry/pods/default/web");
    let nodes = catalog.lookup("", "v1", "nodes").unwrap();
    assert_eq!(nodes.key("/registry", None, "n"), "/registry/minions/n");
    assert_eq!(pods.subresource("eviction").unwrap().group_version, Some(GroupVersion::new("policy", "v1")));
    assert!(catalog.lookup("apps", "v1", "pods").is_none());
}

#[test]
fn extending_leaves_the_old_catalog_as_it_was() {
    let row = Resource { group: "example.com".into(), version: "v1".into(), plural: "widgets".into(), kind: "Widget".into(), ..Resource::default() };
    let next = Catalog::builtin().extended(&[], [Arc::new(row)]);
    assert!(next.lookup("example.com", "v1", "widgets").unwrap().is_custom());
    assert!(Catalog::builtin().lookup("example.com", "v1", "widgets").is_none());
}
