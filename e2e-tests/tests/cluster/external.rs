//! The suite on a cluster that it did not start: here one of ours that another process uses as if it were somebody else's.

use std::process::Command;

use e2e_tests::cluster::{self, KUBECONFIG_VARIABLE};

#[test]
fn the_tests_run_on_the_cluster_that_a_kubeconfig_names() {
    // Own, for it must not meet the namespaces of tests that run beside it.
    let Some(cluster) = cluster::own() else {
        return;
    };
    let kubeconfig = cluster.admin_kubeconfig().unwrap();
    let run = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--test-threads=1"])
            .args([
                "admission::an_annotation_lets_a_deployment_pass_again",
                "server::a_kubeconfig_is_all_that_another_process_needs",
                "server::what_is_stored_survives_a_kill_and_clients_find_the_server_again",
                "server::an_account_may_do_what_its_rules_say_and_the_audit_log_tells_what_it_did",
            ])
            .env(KUBECONFIG_VARIABLE, &kubeconfig)
            .output()
            .unwrap()
    };
    let before = cluster.requests().len();
    // Twice, since the second run finds what the first one left.
    for _ in 0..2 {
        let output = run();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stdout}\n{stderr}");
        assert!(stdout.contains("4 passed"), "{stdout}");
        // Two of them cannot run there, and say so.
        assert_eq!(stderr.matches("SKIPPED").count(), 2, "{stderr}");
    }
    let deployments = |verb: &str| {
        let requests = cluster.requests();
        let requests = requests.iter().skip(before);
        requests
            .filter(|request| request.resource == "deployments" && request.verb == verb)
            .count()
    };
    assert_eq!((deployments("create"), deployments("patch")), (2, 2));
}
