//! `sluice plugin new` makes projects. That they build is shown by `make test-templates`, which needs their compilers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sluice_testkit::run_to_end;

fn prebuilt(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/prebuilt").join(name)
}

#[tokio::test]
async fn a_project_has_all_that_it_is_built_of_and_says_what_to_do_next() {
    let folder = tempfile::tempdir().unwrap();
    for (language, files) in [
        ("rust", ["src/lib.rs", "vendor/sluice-plugin-sdk/src/lib.rs", "build.sh"]),
        ("assemblyscript", ["assembly/index.ts", "package-lock.json", "build.mjs"]),
        ("javascript", ["plugin.js", "package-lock.json", "package.json"]),
        ("python", ["app.py", "requirements.txt", "build.sh"]),
    ] {
        let project = folder.path().join(language);
        let path = project.to_str().unwrap();
        let made = run_to_end(["plugin", "new", "--lang", language, "add-tenant", "--path", path]).await;
        assert!(made.code == Some(0) && made.stdout.contains("sluice plugin test"), "{made:?}");
        for file in files.iter().chain(&["README.md", "fixtures.yaml", "sluice.yaml", "wit/plugin.wit", ".gitignore"]) {
            assert!(project.join(file).is_file(), "{language}: {file}");
        }
        // Its configuration is sound but for the component, which is not built yet; so are its fixtures.
        let fixtures = project.join("fixtures.yaml");
        let untested = run_to_end(["plugin", "test", fixtures.to_str().unwrap()]).await;
        assert!(untested.code == Some(2) && untested.stderr.contains("plugin.wasm"), "{untested:?}");
        // With one that does nothing its fixtures fail: they say what the plugin is for.
        std::fs::copy(prebuilt("hostile.wasm"), project.join("plugin.wasm")).unwrap();
        let useless = run_to_end(["plugin", "test", fixtures.to_str().unwrap()]).await;
        assert!(useless.code == Some(1) && useless.stdout.contains("2 failed"), "{useless:?}");
        let config = project.join("sluice.yaml");
        let checked = run_to_end(["check", "-c", config.to_str().unwrap()]).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
    for build in ["rust/build.sh", "python/build.sh"] {
        let mode = std::fs::metadata(folder.path().join(build)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{build} can be run");
    }
}

#[tokio::test]
async fn nothing_is_written_over_and_no_name_leads_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine"), "precious").unwrap();
    let path = folder.path().to_str().unwrap();
    let refused = run_to_end(["plugin", "new", "--lang", "rust", "p", "--path", path]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("is not empty"), "{refused:?}");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
    for name in ["../up", "Upper", "7th", "", "a b", &"n".repeat(65)] {
        let refused = run_to_end(["plugin", "new", "--lang", "rust", "--path", path, "--", name]).await;
        assert!(refused.code == Some(2) && refused.stderr.contains("is no name"), "{name:?}: {refused:?}");
    }
    let refused = run_to_end(["plugin", "new", "--lang", "cobol", "p"]).await;
    assert!(
        refused.code == Some(2) && refused.stderr.contains("rust, assemblyscript, javascript, python"),
        "{refused:?}"
    );
}
