//! The examples of rules in the documentation are valid and do what the tables below them say, and the listed errors exist.

use mirror_contract::rules::{Action, Decision};
use mirror_contract::{Backup, BackupName, ImageRef, Naming, Settings};
use serde_json::{Value, json};

/// The head of a table of results.
const HEAD: &str = "| namespace | image | Pods use | decided by |\n|---|---|---|---|\n";

/// Pages, and how many examples with rules they have at least.
const PAGES: [(&str, usize); 3] = [("rules", 5), ("migrating", 4), ("config", 1)];

#[test]
fn examples_do_what_their_tables_say() {
    for (name, minimum) in PAGES {
        let page = page(name);
        let mut examples = 0;
        for example in page.split("<!-- values -->\n```yaml\n").skip(1) {
            let (values, text) = example.split_once("```\n").unwrap();
            let values: Value = yaml_serde::from_str(values).unwrap();
            let settings = settings(&values);
            assert_eq!(Settings::check(&settings), [""; 0], "{values}");
            if settings["rules"].is_array() {
                let table = text.split_once(HEAD);
                let (_, rows) = table.unwrap_or_else(|| panic!("no table below {values}"));
                let rows: Vec<_> = rows
                    .lines()
                    .take_while(|row| row.starts_with('|'))
                    .collect();
                let expected: Vec<_> = rows
                    .iter()
                    .map(|row| result(row, &values, &settings))
                    .collect();
                assert_eq!(rows, expected);
                assert!(rows.len() > 1, "{rows:?}");
                examples += 1;
            }
        }
        assert!(examples >= minimum, "{examples} examples");
    }
}

#[test]
fn errors_are_those_of_the_table() {
    let keep = |images: &str| json!({"images": [images], "action": "keep"});
    let mirror = |images: &str| json!({"images": [images], "action": "mirror"});
    let rewrite = |images: &str, target: &str| json!({"images": [images], "action": "rewrite", "target": target});
    let (hub, quay) = ("docker.io/*", "quay.io/*");
    let harbor = "harbor.example.com/hub";
    let refused = [
        json!([keep(hub), keep(quay), keep("nginx")]),
        json!([{"namespaces": [], "action": "keep"}]),
        json!([
            keep(quay),
            keep(hub),
            mirror("*:dev"),
            mirror("docker.io/acme/app")
        ]),
        json!([{"namespaces": ["kube-system"], "action": "keep"}]),
        json!([rewrite("*", harbor)]),
        json!([rewrite(hub, "hub")]),
        json!([rewrite(hub, harbor), rewrite(quay, harbor)]),
        json!([rewrite(hub, "registry.example.com/backup")]),
        json!([rewrite(hub, harbor), mirror("harbor.example.com/hub/*")]),
        json!([{"action": "keep", "backup": "team-a"}]),
        json!([keep(hub)]),
    ];
    let page = page("rules");
    let (_, table) = page
        .split_once("| message | solution |\n|---|---|\n")
        .unwrap();
    let rows: Vec<_> = table
        .lines()
        .take_while(|row| row.starts_with('|'))
        .collect();
    assert_eq!(rows.len(), refused.len());
    for (row, rules) in rows.into_iter().zip(refused) {
        let mut settings =
            json!({"sidecar": "a:1", "backups": ["registry.example.com/backup"], "rules": rules});
        if row.contains("`images` cannot") {
            settings["images"] = json!({"exclude": [quay]});
        }
        let (_, message) = row.split_once("`` ").unwrap();
        let (message, _) = message.split_once(" ``").unwrap();
        let start = message.trim_end_matches(" …");
        let errors = Settings::check(&settings);
        assert!(
            errors.iter().any(|error| error.starts_with(start)),
            "{start}: {errors:?}"
        );
    }
}

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../docs/{name}.md", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The settings that the chart makes from its values.
fn settings(values: &Value) -> Value {
    let mut settings = match &values["policy"]["settings"] {
        Value::Null => json!({}),
        settings => settings.clone(),
    };
    let others = values["backups"]
        .as_object()
        .into_iter()
        .flat_map(|backups| backups.values());
    let mut backups: Vec<_> = settings["backups"].as_array().cloned().unwrap_or_default();
    backups.extend(others.map(|other| location(&other["registry"], &other["repository"])));
    if values["registry"]["host"].is_string() {
        backups.push(location(
            &values["registry"]["host"],
            &values["registry"]["repository"],
        ));
    }
    settings["backups"] = backups.into();
    settings["sidecar"] = "mirror-sidecar:5000".into();
    settings
}

fn location(registry: &Value, repository: &Value) -> Value {
    let parts = [registry, repository].map(|part| part.as_str().unwrap_or_default());
    parts.join("/").trim_end_matches('/').into()
}

/// The row with the namespace and the image of `row`, and the result of the rules.
fn result(row: &str, values: &Value, settings: &Value) -> String {
    let [namespace, image, ..] = row.split('`').skip(1).step_by(2).collect::<Vec<_>>()[..] else {
        panic!("{row}");
    };
    let settings = Settings::parse(settings).unwrap();
    let reference = ImageRef::parse(image).unwrap();
    let Decision { action, decider } = settings.decide(namespace, &reference);
    let used = match action {
        Action::Keep => "the original".to_owned(),
        Action::Mirror { backup } => format!("`{}`", copy(backup, &reference, values)),
        Action::Rewrite { target } => format!("`{}`", target.rewrite(&reference).unwrap()),
    };
    let decider = decider.map_or("no rule".to_owned(), |decider| format!("`{decider}`"));
    format!("| `{namespace}` | `{image}` | {used} | {decider} |")
}

fn copy(backup: &BackupName<'_>, image: &ImageRef<'_>, values: &Value) -> ImageRef<'static> {
    let (place, host) = if *backup == BackupName::DEFAULT {
        (&values["registry"], "host")
    } else {
        (&values["backups"][backup.as_str()], "registry")
    };
    let text = |key: &str| place[key].as_str().unwrap_or_default();
    let naming = match text("naming") {
        "nested" => Naming::Nested,
        "flat" => Naming::Flat,
        _ => Naming::auto(text(host)),
    };
    let backup = Backup::new(text(host), text("repository"), naming).unwrap();
    backup.target(image).unwrap()
}
