//! What a record tells of the machine that made it, and what of that others may know.

use std::collections::BTreeMap;

use dcff_run::{DENSE_FROM, DataConfig};
use serde_json::Value;

/// As it may be told to others: a folder of images is called by its name, its place is nobody's business.
pub fn without_place(data: &DataConfig) -> DataConfig {
    DataConfig {
        name: name_without_place(&data.name),
        path: None,
        ..data.clone()
    }
}

/// The name of a data set that is a folder, without the folders above it.
fn name_without_place(name: &str) -> String {
    if dcff_data::find(name).is_ok() {
        return name.to_owned();
    }
    let last = name.rsplit(['/', '\\']).find(|part| !part.is_empty());
    let last = last.unwrap_or(name).trim_start_matches("folder:");
    format!("folder:{last}")
}

/// Takes out of what an artefact says of its making what only means something on the machine where it was made: where images
/// lay, and which run a dense stage was taken over from (training it gives the same bits).
pub fn forget_places(provenance: &mut BTreeMap<String, serde_json::Value>) {
    for entry in provenance.values_mut() {
        if let Some(data) = entry.get_mut("data").and_then(|data| data.as_object_mut()) {
            data.remove("path");
            if let Some(serde_json::Value::String(name)) = data.get_mut("name") {
                *name = name_without_place(name);
            }
        }
        if let Some(method) = entry.get_mut("method").and_then(|m| m.as_object_mut()) {
            method.remove(DENSE_FROM);
        }
        // A teacher is called by its hash and its folder's name.
        for user in ["method", "distil"] {
            let run = entry.pointer_mut(&format!("/{user}/teacher/run"));
            if let Some(Value::String(run)) = run {
                let last = run.rsplit(['/', '\\']).find(|part| !part.is_empty());
                *run = last.unwrap_or_default().to_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dcff_run::{DenseFrom, Distil, MethodConfig, Recipe, RunConfig};

    use super::*;

    #[test]
    fn places_are_not_told() {
        for (name, told) in [
            ("cifar10", "cifar10"),
            ("/home/me/cats", "folder:cats"),
            ("folder:C:\\me\\cats\\", "folder:cats"),
        ] {
            let data = DataConfig::named("synthetic", 0.1);
            let method = MethodConfig::named("dense");
            let mut config = RunConfig::new("vgg16", 1, data, method, Recipe::quick(1));
            config.data.name = name.into();
            config.data.path = Some("/home/me/cats".into());
            config.distil = Some(Distil::new(DenseFrom {
                run: "/home/me/teacher".into(),
                sha256: "a".into(),
            }));
            assert_eq!(without_place(&config.data).name, told);
            assert_eq!(without_place(&config.data).path, None);
            let value = serde_json::to_value(&config).unwrap();
            let mut provenance = BTreeMap::from([("config".to_owned(), value)]);
            forget_places(&mut provenance);
            let data = &provenance["config"]["data"];
            assert_eq!(data["name"], told);
            assert!(data.get("path").is_none(), "{data}");
            let teacher = &provenance["config"]["distil"]["teacher"];
            assert_eq!(teacher["run"], "teacher");
        }
    }
}
