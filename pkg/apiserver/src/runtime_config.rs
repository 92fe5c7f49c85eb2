//! Which of the built-in APIs are served (`--runtime-config`).

use std::collections::BTreeMap;

use knarr_schema::{Catalog, Resource, features::parse_bool};

/// The classes of versions, each going before those ahead of it.
const CLASSES: [&str; 4] = ["api/all", "api/ga", "api/beta", "api/alpha"];

/// Which of the built-in APIs are served: by class, by version, by resource.
#[derive(Clone, Debug, Default)]
pub struct RuntimeConfig {
    classes: Vec<(&'static str, bool)>,
    versions: BTreeMap<String, bool>,
    resources: BTreeMap<String, bool>,
}

/// `api/ga`, `api/beta` or `api/alpha`.
fn class(version: &str) -> &'static str {
    let rest = version.trim_start_matches('v').trim_start_matches(|c: char| c.is_ascii_digit());
    match rest.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "" => "api/ga",
        "beta" => "api/beta",
        "alpha" => "api/alpha",
        _ => "",
    }
}

impl RuntimeConfig {
    /// Reads `api/beta=true,apps/v1=false,batch/v1/cronjobs=false`.
    ///
    /// # Errors
    /// What is wrong, in upstream's words; also what would have to be served and is not offered.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, String> {
        let mut all: BTreeMap<&str, &str> = BTreeMap::new();
        for item in texts.iter().flat_map(|t| t.as_ref().split(',')).filter(|i| !i.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            all.insert(key.trim(), value.trim());
        }
        if all.len() == 1 && all.get("api/all") == Some(&"false") {
            return Err("invalid runtime-config with only api/all=false".into());
        }
        let mut config = Self::default();
        for name in CLASSES {
            match all.remove(name) {
                None => {}
                Some("true") => config.classes.push((name, true)),
                Some("false") => config.classes.push((name, false)),
                Some(other) => return Err(format!("invalid value {name}={other}")),
            }
        }
        let catalog = Catalog::builtin();
        let mut unknown = Vec::new();
        for key in all.keys() {
            match key.split('/').collect::<Vec<_>>()[..] {
                [group, version] | [group, version, _] if !catalog.groups().iter().any(|g| g.name == group) => unknown.push(format!("{group}/{version}")),
                [_, _] | [_, _, _] => {}
                _ => return Err(format!("runtime-config invalid key {key}")),
            }
        }
        if !unknown.is_empty() {
            return Err(format!("unknown api groups {}", unknown.join(",")));
        }
        for (key, value) in all {
            let on = if value.is_empty() { Ok(true) } else { parse_bool(value) };
            let on = on.map_err(|why| format!("invalid value of {key}: {value}, err: {why}"))?;
            let cells: Vec<&str> = key.split('/').collect();
            let (group, version) = (cells[0], cells[1]);
            // Versions that are off by default and not offered may be turned off.
            if on && catalog.of_version(group, version).next().is_none() {
                return Err(format!("group version {group}/{version} that has not been registered"));
            }
            match cells.get(2) {
                None => config.versions.insert(key.to_owned(), on),
                Some(r) if r.to_lowercase() != **r => {
                    return Err(format!("invalid key {key}: group/version/resource and resource is always lowercase plural, not {r:?}"));
                }
                Some(_) => config.resources.insert(key.to_owned(), on),
            };
        }
        Ok(config)
    }

    /// Classes of versions that should be served, of which there are none.
    pub fn idle(&self) -> impl Iterator<Item = &'static str> {
        self.classes.iter().filter(|(name, on)| *on && matches!(*name, "api/beta" | "api/alpha")).map(|(name, _)| *name)
    }

    fn serves(&self, r: &Resource) -> bool {
        let version = format!("{}/{}", r.group, r.version);
        if let Some(on) = self.resources.get(&format!("{version}/{}", r.plural)).or_else(|| self.versions.get(&version)) {
            return *on;
        }
        let class = class(&r.version);
        self.classes.iter().rfind(|(name, _)| *name == "api/all" || *name == class).is_none_or(|(_, on)| *on)
    }

    /// The built-in rows that are served.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        Catalog::builtin().only(|r| self.serves(r))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_out() {
        let rows = |text: &str| RuntimeConfig::parse(&[text]).expect("good").catalog();
        let usual = rows("").resources().len();
        assert_eq!(usual, Catalog::builtin().resources().len());
        let c = rows("apps/v1=false,apps/v1/deployments=true,batch/v1/cronjobs=false,policy/v1=false");
        assert!(c.lookup("apps", "v1", "deployments").is_some() && c.lookup("apps", "v1", "replicasets").is_none());
        assert!(c.lookup("batch", "v1", "jobs").is_some() && c.lookup("batch", "v1", "cronjobs").is_none());
        assert!(!c.groups().iter().any(|g| g.name == "policy") && c.groups().iter().any(|g| g.name == "apps"));
        let c = rows("api/all=false,autoscaling/v1");
        assert_eq!(c.resources().len(), 1);
        assert_eq!(c.groups()[0].versions, ["v1"]);
        // A class goes before all, a version before its class.
        assert_eq!(rows("api/all=false,api/ga=true").resources().len(), usual);
        assert!(rows("api/ga=false,apps/v1=true").lookup("apps", "v1", "deployments").is_some());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let why = |text: &str| RuntimeConfig::parse(&[text]).expect_err("refused");
        assert_eq!(why("api/all=false"), "invalid runtime-config with only api/all=false");
        assert_eq!(why("api/beta=1"), "invalid value api/beta=1");
        assert_eq!(why("v1=true"), "runtime-config invalid key v1");
        assert_eq!(why("nonsense/v1=true,zzz/v2/x=false"), "unknown api groups nonsense/v1,zzz/v2");
        assert_eq!(why("apps/v1=maybe"), r#"invalid value of apps/v1: maybe, err: strconv.ParseBool: parsing "maybe": invalid syntax"#);
        assert_eq!(why("apps/v1/Deployments=true"), r#"invalid key apps/v1/Deployments: group/version/resource and resource is always lowercase plural, not "Deployments""#);
        assert_eq!(why("apps/v7=true"), "group version apps/v7 that has not been registered");
        assert!(RuntimeConfig::parse(&["resource.k8s.io/v1beta1=false,api/beta=true"]).expect("good").idle().eq(["api/beta"]));
    }
}
