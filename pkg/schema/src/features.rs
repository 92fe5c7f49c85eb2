//! The feature gates of Kubernetes v1.37, from `api/features.tsv`.

use std::{collections::BTreeMap, sync::OnceLock};

static TABLE: &str = include_str!("../../../api/features.tsv");

/// One feature.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The name of its gate.
    pub name: &'static str,
    /// `PRE-ALPHA`, `ALPHA`, `BETA`, `GA` or `DEPRECATED`.
    pub stage: &'static str,
    /// Whether it is on where nothing is said.
    pub default: bool,
    /// Whether it cannot be otherwise.
    pub locked: bool,
    needs: &'static str,
}

impl Feature {
    /// Whether it stands for all features of its stage.
    fn is_of_all(&self) -> bool {
        matches!(self.name, "AllAlpha" | "AllBeta")
    }
}

/// All features, by name.
pub fn all() -> &'static [Feature] {
    static ALL: OnceLock<Vec<Feature>> = OnceLock::new();
    ALL.get_or_init(|| {
        let rows = TABLE.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        rows.filter_map(|cells| match cells[..] {
            [name, stage, default, locked, needs] => Some(Feature { name, stage, default: default == "true", locked: locked == "locked", needs: if needs == "-" { "" } else { needs } }),
            _ => None,
        })
        .collect()
    })
}

fn of_name(name: &str) -> Option<&'static Feature> {
    all().binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &all()[i])
}

/// Gates as they were set.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    set: BTreeMap<&'static str, bool>,
}

/// A boolean as Go reads it.
///
/// # Errors
/// What Go says of another text.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

impl Gates {
    /// Reads `A=true,B=false`; a name may stand behind `kube:`.
    ///
    /// # Errors
    /// The gate that is not known, cannot be set so, or needs another one; in upstream's words.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, String> {
        let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
        for item in texts.iter().flat_map(|t| t.as_ref().split(',')).filter(|i| !i.is_empty()) {
            let item = match item.split_once(':') {
                Some(("kube", rest)) => rest,
                Some((component, _)) => return Err(format!("component not registered: {component}")),
                None => item,
            };
            let (name, value) = item.split_once('=').ok_or_else(|| format!("missing bool value for {}", item.trim()))?;
            let (name, value) = (name.trim(), value.trim());
            let on = parse_bool(value).map_err(|why| format!("invalid value of {name}={value}, err: {why}"))?;
            wanted.insert(name.to_owned(), on);
        }
        let mut set = BTreeMap::new();
        let mut wrong = Vec::new();
        for (name, on) in &wanted {
            let f = of_name(name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            if f.locked && f.default != *on {
                wrong.push(format!("cannot set feature gate {name} to {on}, feature is locked to {}", f.default));
                continue;
            }
            if f.stage == "PRE-ALPHA" {
                wrong.push(format!("cannot set feature gate {name} to {on}, feature is PreAlpha at emulated version 1.37, min compatibility version 1.36"));
                continue;
            }
            set.insert(f.name, *on);
            if f.is_of_all() {
                // What is named itself goes before.
                for f in all().iter().filter(|o| o.stage == f.stage && !o.is_of_all() && !wanted.contains_key(o.name)) {
                    set.insert(f.name, *on);
                }
            }
        }
        let gates = Self { set };
        if wrong.is_empty() {
            for f in all().iter().filter(|f| !f.needs.is_empty() && gates.enabled(f.name)) {
                let off: Vec<&str> = f.needs.split(',').filter(|n| !gates.enabled(n)).collect();
                if !off.is_empty() {
                    wrong.push(format!("{} is enabled, but depends on features that are disabled: [{}]", f.name, off.join(" ")));
                }
            }
        }
        match wrong.as_slice() {
            [] => Ok(gates),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    /// Whether a feature is on; one that is not known is off.
    pub fn enabled(&self, name: &str) -> bool {
        self.set.get(name).copied().unwrap_or_else(|| of_name(name).is_some_and(|f| f.default))
    }

    /// Those that are not as they are by default.
    pub fn changed(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.set.iter().map(|(n, on)| (*n, *on)).filter(|(n, on)| of_name(n).is_some_and(|f| f.default != *on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Gates::parse(&[text]).expect_err("refused")
    }

    #[test]
    fn gates_are_read_as_upstream_reads_them() {
        assert!(all().is_sorted_by(|a, b| a.name < b.name) && all().len() > 100);
        let locked = all().iter().find(|f| f.locked).expect("a locked one");
        let alpha = all().iter().filter(|f| f.stage == "ALPHA" && !f.is_of_all()).collect::<Vec<_>>();
        let free = alpha.iter().find(|f| f.needs.is_empty()).expect("an alpha feature").name;
        let g = Gates::parse(&[format!("{free}=true"), format!("kube:{}={}", locked.name, locked.default)]).expect("good");
        assert!(g.enabled(free) && g.changed().eq([(free, true)]));
        let g = Gates::parse(&[format!("{free}=false"), "AllAlpha=true,AllBeta=true".to_owned()]);
        let g = g.unwrap_or_else(|why| panic!("{why}"));
        assert!(!g.enabled(free) && alpha.iter().all(|f| f.name == free || g.enabled(f.name)));
        assert_eq!(refused("Nonsense=true"), "unrecognized feature gate: Nonsense");
        assert_eq!(refused("AllAlpha"), "missing bool value for AllAlpha");
        assert_eq!(refused("AllAlpha=yes"), r#"invalid value of AllAlpha=yes, err: strconv.ParseBool: parsing "yes": invalid syntax"#);
        assert_eq!(
            refused(&format!("{}={}", locked.name, !locked.default)),
            format!("cannot set feature gate {} to {}, feature is locked to {}", locked.name, !locked.default, locked.default)
        );
        let needy = all().iter().find(|f| !f.needs.is_empty() && !f.locked && f.needs.split(',').all(|n| of_name(n).is_some_and(|n| !n.locked))).expect("one that needs others");
        let first = needy.needs.split(',').next().expect("a name");
        let why = refused(&format!("{}=true,{first}=false", needy.name));
        assert!(why.contains(&format!("{} is enabled, but depends on features that are disabled:", needy.name)), "{why}");
    }
}
