//! Services, links and objectives: what is judged, and against what.

use crate::{GOOD, check, problems};

#[test]
fn names_of_services() {
    let names = |text: &str, problems: &[&str]| {
        check(
            "kind: ndvi",
            &format!("kind: ndvi, names: {text}"),
            problems,
        );
    };
    names(
        "[{name: ndvi}]",
        &[
            "25:97 services[0].names[0].name: `ndvi` is no complete name: search lists are not used \
         | write it whole, such as `ndvi.default.svc.cluster.local`",
        ],
    );
    names(
        "[{name: a.b, clusters: [eats]}]",
        &[
            "25:113 services[0].names[0].clusters[0]: no cluster is called `eats` | did you mean `east`?",
        ],
    );
    names(
        "[{name: a.b}, {name: a.b, clusters: [east], addresses: [10.9.9.9]}, {name: a.b}]",
        &[
            "25:164 services[0].names[2].name: the name `a.b` in `*` is given twice \
         | 25:97 services[0].names[0].name: the first one is here",
        ],
    );
}

#[test]
fn backends_and_affinity() {
    let backends = |text: &str, problems: &[&str]| {
        check("cluster: east", &format!("cluster: east, {text}"), problems);
    };
    backends(
        "backends: [east, north]",
        &[
            "25:50 services[0].backends[1]: no cluster is called `north` | the clusters are `east`, `west`",
        ],
    );
    backends(
        "backends: [west, west]",
        &[
            "25:43 services[0].backends: the service is said to run in `east`, which is not among its backends' clusters \
         | 25:27 services[0].cluster: said here",
            "25:50 services[0].backends[1]: the cluster with backends `west` is given twice \
         | 25:44 services[0].backends[0]: the first one is here",
        ],
    );
    backends(
        "affinity: near",
        &[
            "25:43 services[0].affinity: `near` is not an affinity | as in Cilium: `none`, `local` or `remote`",
        ],
    );
    backends(
        "affinity: local",
        &[
            "25:43 services[0].affinity: an affinity chooses between clusters, and all backends are in one \
         | list the clusters that run backends as `backends: […]`",
        ],
    );
}

#[test]
fn services() {
    check(
        "cluster: east",
        "cluster: eats",
        &["25:27 services[0].cluster: no cluster is called `eats` | did you mean `east`?"],
    );
    check(
        "[10.96.15.1]",
        "[10.245.0.9]",
        &[
            "25:45 services[0].addresses[0]: `10.245.0.9` lies in the pod CIDR of `west`, but the service is said to run in `east` \
         | 16:17 clusters[1].pod_cidrs[0]: declared here",
        ],
    );
    check(
        "[10.96.15.1]",
        "[192.168.50.9]",
        &[
            "25:45 services[0].addresses[0]: `192.168.50.9` lies in the prefix of client `drones`, but the service is said to run in `east` \
         | 23:16 clients[0].prefixes[0]: declared here",
        ],
    );
    check(
        "kind: ndvi",
        "kind: grpc",
        &[
            "25:76 services[0].kind: `grpc` is not a kind of service | the kinds are `tcp`, `http` and `ndvi`",
        ],
    );
    check(
        "port: 8080",
        "port: 7411",
        &[
            "25:64 services[0].port: port 7411 is where the agents answer probes, so its traffic could not be told from probes",
        ],
    );
    check(
        "port: 8080",
        "port: 61000",
        &[
            "25:64 services[0].port: port 61000 is where our probes come from, so its traffic could not be told from probes",
        ],
    );
    check(
        "port: 8080",
        "port: 0",
        &["25:64 services[0].port: 0 is not within 1 to 65535"],
    );
    check(
        "links: all",
        "  - {name: x, cluster: east, addresses: [10.96.15.1], port: 8080, kind: tcp}",
        &[
            "26:42 services[1].addresses[0]: the service address `10.96.15.1:8080` is given twice \
         | 25:45 services[0].addresses[0]: the first one is here",
        ],
    );
    check(
        "links: all",
        "  - {name: ndvi, cluster: east, addresses: [10.96.15.1], port: 81, kind: tcp}",
        &[
            "26:12 services[1].name: the service name `ndvi` is given twice | 25:12 services[0].name: the first one is here",
        ],
    );
    // Outside every declared network: a load balancer, for instance.
    check("[10.96.15.1]", "[203.0.113.7]", &[]);
}

#[test]
fn links() {
    check(
        "links: all",
        "links: [{source: east, target: wset}]",
        &["26:32 links[0].target: no cluster is called `wset` | did you mean `west`?"],
    );
    check(
        "links: all",
        "links: [{source: east, target: quite-another}]",
        &[
            "26:32 links[0].target: no cluster is called `quite-another` | the clusters are `east`, `west`",
        ],
    );
    check(
        "links: all",
        "links: [{source: east, target: east}]",
        &[
            "26:9 links[0]: a cluster is linked to itself although there are others | links inside a cluster are measured \
         anyway, as the control; remove this one",
        ],
    );
    check(
        "links: all",
        "links: [{source: east, target: west}, {source: east, target: west}]",
        &[
            "26:48 links[1].source: the link `east → west` is given twice | 26:18 links[0].source: the first one is here",
        ],
    );
    check(
        "links: all",
        "links: every",
        &["26:8 links: expected a list of links, or `all`, saw the text `every` | write `[every]`"],
    );
    check(
        "links: all",
        "links: [{source: east, target: west}, {source: west, target: east}]",
        &[],
    );
}

#[test]
fn an_empty_scope_is_an_error() {
    check(
        "links: all",
        "links: []",
        &[
            "26:8 links: empty scope: no link is listed | write `links: all`, or name at least one link",
        ],
    );
    assert_eq!(
        problems("mesh: m\nclusters: []\n"),
        ["2:11 clusters: empty scope: no cluster is declared | declare at least one cluster",]
    );
    for nothing in ["", "---\n", "# only a comment\n", "~"] {
        let found = problems(nothing);
        assert_eq!(found.len(), 1, "{nothing:?}: {found:?}");
        assert!(
            found[0].contains("expected a mesh with the keys `mesh`, `clusters`"),
            "{found:?}"
        );
        assert!(found[0].ends_with("saw nothing"), "{found:?}");
    }
}

#[test]
fn objectives() {
    let check = |to: &str, expected: &[&str]| check("{loss: 1%}", to, expected);
    check(
        "{loss: 0.01}",
        &[
            "27:20 objectives.loss: expected a share such as `99%`, saw the number 0.01 | write it with a percent sign",
        ],
    );
    check(
        "{loss: 1 percent}",
        &["27:20 objectives.loss: `1 percent` is not a share | write a percentage such as `99.9%`"],
    );
    check(
        "{latency_p99: 50}",
        &[
            "27:27 objectives.latency_p99: expected text, saw the number 50 | put it in quotes if it is meant as text",
        ],
    );
    check(
        "{latency_p99: 50 ms}",
        &[
            "27:27 objectives.latency_p99: `50 ms` is not a duration | write a number with `us`, `ms` or `s`, such as `50ms`",
        ],
    );
    check(
        "{latency_p99: 61s, ndvi_round_trip: 0s}",
        &[
            "27:27 objectives.latency_p99: `61s` is not within `100us` to `60s`",
            "27:49 objectives.ndvi_round_trip: `0us` is not within `1ms` to `600s`",
        ],
    );
    check(
        "{coverage: 101%, confidence: 50%}",
        &[
            "27:24 objectives.coverage: `101%` is not within `50%` to `100%`",
            "27:42 objectives.confidence: `50%` is not within `80%` to `99.9%`",
        ],
    );
    check(
        "{mtu: 1279, throughput: 10Mb, jitter_p99: 5}",
        &[
            "27:19 objectives.mtu: 1279 is not within 1280 to 9216",
            "27:37 objectives.throughput: `10Mb` is not a rate | write a number with `kbit`, `Mbit` or `Gbit`, per second, such as `100Mbit`",
            "27:55 objectives.jitter_p99: expected text, saw the number 5 | put it in quotes if it is meant as text",
        ],
    );
    check(
        "{throughput: 99kbit, jitter_p99: 61s}",
        &[
            "27:26 objectives.throughput: `99kbit` is not within `100kbit` to `100Gbit`",
            "27:46 objectives.jitter_p99: `61s` is not within `100us` to `60s`",
        ],
    );
    check("{mtu: 1420, throughput: 100Mbit, jitter_p99: 5ms}", &[]);
    let tight = |seen: &str| {
        format!(
            "`{seen}` cannot be proven by probing: it takes 29956 probes in a row without one failure, 3.5 days at one \
             probe in 10s, and a single lost probe starts it again | 0.1% failures, or 99.9% success, is the tightest \
             that fresh probing proves in its budget"
        )
    };
    check(
        "{connect_success: 99.99%}",
        &[&format!(
            "27:31 objectives.connect_success: {}",
            tight("99.99%")
        )],
    );
    check(
        "{ndvi_success: 100%}",
        &[&format!("27:28 objectives.ndvi_success: {}", tight("100%"))],
    );
    check(
        "{loss: 0.01%}",
        &[&format!("27:20 objectives.loss: {}", tight("0.01%"))],
    );
    check(
        "{loss: 0%}",
        &[&format!("27:20 objectives.loss: {}", tight("0%"))],
    );
    check(
        "{loss: 51%, connect_success: 49%}",
        &[
            "27:20 objectives.loss: `51%` would accept a mesh that fails more often than it works",
            "27:42 objectives.connect_success: `49%` would accept a mesh that fails more often than it works",
        ],
    );
    check(
        "{loss: 0.1%, connect_success: 99.95%, confidence: 99%, latency_p99: 50ms}",
        &[],
    );
    check(
        "{links: [{source: east, target: west, latency_p99: 5ms}]}",
        &[],
    );
    check(
        "{links: [{source: east, target: east, latency_p99: 5ms}]}",
        &[
            "27:22 objectives.links[0]: east → east is not in scope | add it to `links`, or remove its objective",
        ],
    );
    check(
        "{links: [{source: east, target: north}]}",
        &[
            "27:22 objectives.links[0].latency_p99: `latency_p99` is missing | add `latency_p99: …`",
            "27:45 objectives.links[0].target: no cluster is called `north` | the clusters are `east`, `west`",
        ],
    );
}

#[test]
fn an_objective_is_not_blamed_for_a_link_that_could_not_be_read() {
    for (links, problem) in [
        (
            "[{source: east, target: west}, {source: west}]",
            "26:39 links[1].target: `target` is missing | add `target: …`",
        ),
        (
            "every",
            "26:8 links: expected a list of links, or `all`, saw the text `every` | write `[every]`",
        ),
    ] {
        let yaml = GOOD
            .replace("links: all", &format!("links: {links}"))
            .replace(
                "{loss: 1%}",
                "{links: [{source: west, target: east, latency_p99: 5ms}]}",
            );
        assert_eq!(problems(&yaml), [problem]);
    }
}

#[test]
fn an_objective_for_a_link_out_of_scope() {
    let yaml = GOOD
        .replace("links: all", "links: [{source: east, target: west}]")
        .replace(
            "{loss: 1%}",
            "{links: [{source: west, target: east, latency_p99: 5ms}]}",
        );
    assert_eq!(
        problems(&yaml),
        [
            "27:22 objectives.links[0]: west → east is not in scope | add it to `links`, or remove its objective",
        ]
    );
}
