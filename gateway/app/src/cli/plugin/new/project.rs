//! What the projects of each language consist of. The texts are those of the repository, so that they cannot fall behind.

/// A language that a project can be made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    Rust,
    #[value(name = "assemblyscript")]
    AssemblyScript,
    #[value(name = "javascript")]
    JavaScript,
    Python,
}

/// A file of a project.
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) text: String,
    pub(super) is_program: bool,
}

/// A text of the repository, by its path there.
macro_rules! repository {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../", $path))
    };
}

const WIT: &[(&str, &str)] = &[
    ("wit/bodies.wit", repository!("wit/bodies.wit")),
    ("wit/capabilities.wit", repository!("wit/capabilities.wit")),
    ("wit/plugin.wit", repository!("wit/plugin.wit")),
];

/// The SDK's sources, for `vendor/sluice-plugin-sdk`.
const SDK: &[(&str, &str)] = &[
    ("vendor/sluice-plugin-sdk/src/action.rs", repository!("plugins/sdk/src/action.rs")),
    ("vendor/sluice-plugin-sdk/src/body.rs", repository!("plugins/sdk/src/body.rs")),
    ("vendor/sluice-plugin-sdk/src/clock.rs", repository!("plugins/sdk/src/clock.rs")),
    ("vendor/sluice-plugin-sdk/src/config.rs", repository!("plugins/sdk/src/config.rs")),
    ("vendor/sluice-plugin-sdk/src/connection.rs", repository!("plugins/sdk/src/connection.rs")),
    ("vendor/sluice-plugin-sdk/src/exchange.rs", repository!("plugins/sdk/src/exchange.rs")),
    ("vendor/sluice-plugin-sdk/src/heap.rs", repository!("plugins/sdk/src/heap.rs")),
    ("vendor/sluice-plugin-sdk/src/identity.rs", repository!("plugins/sdk/src/identity.rs")),
    ("vendor/sluice-plugin-sdk/src/key_value.rs", repository!("plugins/sdk/src/key_value.rs")),
    ("vendor/sluice-plugin-sdk/src/lib.rs", repository!("plugins/sdk/src/lib.rs")),
    ("vendor/sluice-plugin-sdk/src/log.rs", repository!("plugins/sdk/src/log.rs")),
    ("vendor/sluice-plugin-sdk/src/message.rs", repository!("plugins/sdk/src/message.rs")),
    ("vendor/sluice-plugin-sdk/src/metrics.rs", repository!("plugins/sdk/src/metrics.rs")),
    ("vendor/sluice-plugin-sdk/src/outbound.rs", repository!("plugins/sdk/src/outbound.rs")),
    ("vendor/sluice-plugin-sdk/src/phase.rs", repository!("plugins/sdk/src/phase.rs")),
    ("vendor/sluice-plugin-sdk/src/random.rs", repository!("plugins/sdk/src/random.rs")),
    ("vendor/sluice-plugin-sdk/src/routing.rs", repository!("plugins/sdk/src/routing.rs")),
    ("vendor/sluice-plugin-sdk/src/tags.rs", repository!("plugins/sdk/src/tags.rs")),
];

impl Language {
    pub(super) const fn spoken(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::AssemblyScript => "AssemblyScript",
            Self::JavaScript => "JavaScript",
            Self::Python => "Python",
        }
    }

    /// The command that builds it.
    pub(super) const fn build(self) -> &'static str {
        match self {
            Self::Rust | Self::Python => "./build.sh",
            Self::AssemblyScript | Self::JavaScript => "npm ci --ignore-scripts && npm run build",
        }
    }

    const fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::AssemblyScript => "assembly/index.ts",
            Self::JavaScript => "plugin.js",
            Self::Python => "app.py",
        }
    }

    /// Whether its components bring an interpreter along, which takes memory and a while to begin.
    const fn is_interpreted(self) -> bool {
        matches!(self, Self::JavaScript | Self::Python)
    }

    /// All of a project's files.
    pub(super) fn files(self, name: &str) -> Vec<File> {
        let (limits, sparing) = if self.is_interpreted() {
            // A machine that is busy with tests, and an interpreter that begins anew each time.
            (
                "{ memory: 64MiB, deadline: 1s }",
                "    limits: { memory: 64MiB, deadline: 100ms }\n    reuse: { requests: 1000 }\n",
            )
        } else {
            ("{ deadline: 500ms }", "")
        };
        let filled = |text: &str| {
            text.replace("@name@", name)
                .replace("@limits@", limits)
                .replace("@sparing@", sparing)
                .replace("@crate@", &name.replace('-', "_"))
                .replace("@build@", self.build())
                .replace("@source@", self.source())
                .replace("@sdk@", env!("CARGO_PKG_VERSION"))
        };
        let file = |path, text: &str| File { path, text: filled(text), is_program: false };
        // What is copied is not looked into.
        let copied = |(path, text): &(&'static str, &str)| File { path, text: (*text).to_owned(), is_program: false };
        let mut files = vec![
            file("README.md", repository!("plugins/templates/README.md.in")),
            file("fixtures.yaml", repository!("plugins/templates/fixtures.yaml")),
            file("sluice.yaml", repository!("plugins/templates/sluice.yaml.in")),
        ];
        files.extend(WIT.iter().map(copied));
        match self {
            Self::Rust => {
                files.push(file(".gitignore", "/target\n/plugin.wasm\n"));
                files.push(file("Cargo.toml", repository!("plugins/templates/rust/Cargo.toml.in")));
                let build = file("build.sh", repository!("plugins/templates/rust/build.sh"));
                files.push(File { is_program: true, ..build });
                files.push(file("src/lib.rs", repository!("plugins/templates/rust/src/lib.rs")));
                files.push(file("src/schema.json", repository!("plugins/templates/rust/src/schema.json")));
                files.push(file(
                    "vendor/sluice-plugin-sdk/Cargo.toml",
                    repository!("plugins/templates/rust/sdk.toml.in"),
                ));
                files.extend(SDK.iter().map(copied));
            }
            Self::AssemblyScript => {
                // The example's tools are the template's: where it is, and what it is called, differs.
                let of_example = |text: &str| text.replace("add-region-as", name);
                let build = repository!("plugins/examples/add-region-as/build.mjs")
                    .replace("build/add_region_as.wasm", "plugin.wasm")
                    .replace("../../../wit", "wit");
                files.push(file(".gitignore", "/node_modules\n/plugin.wasm\n"));
                files.push(file("build.mjs", &build));
                files.push(file(
                    "package.json",
                    &of_example(repository!("plugins/templates/assemblyscript/package.json")),
                ));
                files.push(file(
                    "package-lock.json",
                    &of_example(repository!("plugins/examples/add-region-as/package-lock.json")),
                ));
                files.push(file("assembly/index.ts", repository!("plugins/templates/assemblyscript/index.ts")));
                files
                    .push(file("assembly/sluice.ts", repository!("plugins/examples/add-region-as/assembly/sluice.ts")));
            }
            Self::JavaScript => {
                files.push(file(".gitignore", "/node_modules\n/plugin.wasm\n"));
                files.push(file("package.json", repository!("plugins/templates/javascript/package.json")));
                files.push(file("package-lock.json", repository!("plugins/templates/javascript/package-lock.json")));
                files.push(file("plugin.js", repository!("plugins/templates/javascript/plugin.js")));
            }
            Self::Python => {
                files.push(file(".gitignore", "/.venv\n/__pycache__\n/plugin.wasm\n"));
                let build = file("build.sh", repository!("plugins/templates/python/build.sh"));
                files.push(File { is_program: true, ..build });
                files.push(file("requirements.txt", repository!("plugins/templates/python/requirements.txt")));
                files.push(file("app.py", repository!("plugins/templates/python/app.py")));
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn names(folder: &str, ending: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).collect()
    }

    #[test]
    fn a_project_holds_the_whole_sdk_and_the_whole_contract() {
        let of = |files: &[(&str, &str)]| -> BTreeSet<String> {
            files.iter().map(|(path, _)| path.rsplit('/').next().unwrap().to_owned()).collect()
        };
        assert_eq!(of(SDK), names("plugins/sdk/src", ".rs"));
        assert_eq!(of(WIT), names("wit", ".wit"));
    }

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        for language in <Language as clap::ValueEnum>::value_variants() {
            for file in language.files("add-tenant") {
                for word in [
                    "@name@",
                    "@crate@",
                    "@build@",
                    "@source@",
                    "@sdk@",
                    "@limits@",
                    "@sparing@",
                    "add-region",
                    "add_region",
                    "../../../",
                ] {
                    assert!(!file.text.contains(word), "{}: {word}", file.path);
                }
            }
        }
    }
}
