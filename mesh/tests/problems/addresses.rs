//! Networks, addresses and agents.

use crate::{GOOD, check, problems};

#[test]
fn networks() {
    check(
        "[10.244.0.0/16]",
        "[10.244.0.1/16]",
        &[
            "6:17 clusters[0].pod_cidrs[0]: `10.244.0.1/16` has bits set behind its prefix length | write `10.244.0.0/16`",
        ],
    );
    check(
        "[192.168.50.0/24]",
        "[192.168.50.7]",
        &[
            "23:16 clients[0].prefixes[0]: `192.168.50.7` is an address, not a network | write `192.168.50.7/32` for this address alone",
        ],
    );
    check(
        "[192.168.50.0/24]",
        "[everywhere]",
        &[
            "23:16 clients[0].prefixes[0]: `everywhere` is not a network | write an address and a prefix length, such as `10.244.0.0/16`",
        ],
    );
    check(
        "[192.168.50.0/24]",
        "[192.168.50.0/33]",
        &[
            "23:16 clients[0].prefixes[0]: `192.168.50.0/33` is not a network | write an address and a prefix length, such as `10.244.0.0/16`",
        ],
    );
    check(
        "[192.168.50.0/24]",
        "[0.0.0.0/0]",
        &["23:16 clients[0].prefixes[0]: `0.0.0.0/0` covers every address"],
    );
    check(
        "[192.168.50.0/24]",
        "[\"::ffff:192.168.50.0/120\"]",
        &[
            "23:16 clients[0].prefixes[0]: `::ffff:192.168.50.0/120` is an IPv4 address in IPv6 dress; write it as IPv4",
        ],
    );
    check(
        "node_networks: [192.168.20.0/24]",
        "node_networks: []",
        &[
            "15:20 clusters[1].node_networks: at least one network is needed",
            "20:21 clusters[1].nodes[0].addresses[0]: `192.168.20.21` is not within `node_networks` of its cluster",
        ],
    );
    // A network that could not be read is not held against the addresses in it.
    check(
        "[192.168.20.0/24]",
        "[192.168.20.0/99]",
        &[
            "15:21 clusters[1].node_networks[0]: `192.168.20.0/99` is not a network | write an address and a prefix length, such as `10.244.0.0/16`",
        ],
    );
}

#[test]
fn overlaps() {
    const HINT: &str = "every address must belong to one cluster and one purpose";
    check(
        "[10.245.0.0/16]",
        "[10.244.128.0/17]",
        &[&format!(
            "16:17 clusters[1].pod_cidrs[0]: `10.244.128.0/17` overlaps `10.244.0.0/16`, the pod CIDR of `east` \
         | 6:17 clusters[0].pod_cidrs[0]: declared here | {HINT}"
        )],
    );
    // The wider one comes later in the file.
    check(
        "[10.245.0.0/16]",
        "[10.240.0.0/12]",
        &[&format!(
            "16:17 clusters[1].pod_cidrs[0]: `10.240.0.0/12` overlaps `10.244.0.0/16`, the pod CIDR of `east` \
         | 6:17 clusters[0].pod_cidrs[0]: declared here | {HINT}"
        )],
    );
    check(
        "[10.245.0.0/16]",
        "[10.97.0.0/16]",
        &[&format!(
            "16:17 clusters[1].pod_cidrs[0]: `10.97.0.0/16` overlaps `10.96.0.0/12`, the service CIDR of `east` \
         | 7:21 clusters[0].service_cidrs[0]: declared here | {HINT}"
        )],
    );
    check(
        "[192.168.50.0/24]",
        "[192.168.20.16/28]",
        &[&format!(
            "23:16 clients[0].prefixes[0]: `192.168.20.16/28` overlaps `192.168.20.0/24`, the node network of `west` \
         | 15:21 clusters[1].node_networks[0]: declared here | {HINT}"
        )],
    );
    check(
        "[192.168.50.0/24]",
        "[192.168.50.0/24, 192.168.50.0/24]",
        &[&format!(
            "23:33 clients[0].prefixes[1]: `192.168.50.0/24` overlaps `192.168.50.0/24`, the prefix of client `drones` \
         | 23:16 clients[0].prefixes[0]: declared here | {HINT}"
        )],
    );
    // Behind an allowed overlap of service CIDRs, a forbidden one is still found.
    check(
        "[10.112.0.0/12]",
        "[10.96.0.0/12, 10.96.0.0/16]",
        &[
            &format!(
                "17:35 clusters[1].service_cidrs[1]: `10.96.0.0/16` overlaps `10.96.0.0/12`, the service CIDR of `west` \
         | 17:21 clusters[1].service_cidrs[0]: declared here | {HINT}"
            ),
            "25:45 services[0].addresses[0]: `10.96.15.1` is ambiguous: it also lies in the service CIDR of `west` \
         | 17:21 clusters[1].service_cidrs[0]: declared here",
        ],
    );
    let same = GOOD
        .replace("[10.96.0.0/12]", "[10.96.0.0/12, 10.96.0.0/16]")
        .replace("[10.112.0.0/12]", "[10.96.0.0/12]")
        .replace("[10.96.15.1]", "[203.0.113.7]");
    assert_eq!(
        problems(&same),
        [format!(
            "7:35 clusters[0].service_cidrs[1]: `10.96.0.0/16` overlaps `10.96.0.0/12`, the service CIDR of `east` \
             | 7:21 clusters[0].service_cidrs[0]: declared here | {HINT}"
        )]
    );
    check("[10.112.0.0/12]", "[10.100.0.0/16]", &[]);
    check(
        "[192.168.50.0/24]",
        "[192.168.50.0/24, \"fd50::/64\", 192.168.51.0/24]",
        &[],
    );
}

#[test]
fn addresses() {
    check(
        "[192.168.20.21]",
        "[192.168.20.256]",
        &[
            "20:21 clusters[1].nodes[0].addresses[0]: `192.168.20.256` is not an IPv4 or IPv6 address",
        ],
    );
    check(
        "[192.168.20.21]",
        "[192.168.20.21/24]",
        &[
            "20:21 clusters[1].nodes[0].addresses[0]: `192.168.20.21/24` is a network, not an address | write `192.168.20.21`",
        ],
    );
    check(
        "[192.168.20.21]",
        "[192.168.21.1]",
        &[
            "20:21 clusters[1].nodes[0].addresses[0]: `192.168.21.1` is not within `node_networks` of its cluster | they are 192.168.20.0/24",
        ],
    );
    check(
        "[10.244.0.10]",
        "[10.245.0.10]",
        &[
            "11:21 clusters[0].nodes[0].agent_pod[0]: `10.245.0.10` is not within `pod_cidrs` of its cluster | they are 10.244.0.0/16",
        ],
    );
    check(
        "[192.168.20.21]",
        "[192.168.20.21, 192.168.20.21]",
        &[
            "20:36 clusters[1].nodes[0].addresses[1]: the address `192.168.20.21` is given twice \
         | 20:21 clusters[1].nodes[0].addresses[0]: the first one is here",
        ],
    );
    check(
        "[192.168.20.21]",
        "[]",
        &["20:20 clusters[1].nodes[0].addresses: at least one address is needed"],
    );
    for (address, why) in [
        (
            "127.0.0.1",
            "is a loopback address, which means every machine itself",
        ),
        ("0.0.0.0", "is the unspecified address, which names nobody"),
        ("\"::\"", "is the unspecified address, which names nobody"),
        (
            "224.0.0.1",
            "is a multicast address, which names no single machine",
        ),
    ] {
        let seen = address.trim_matches('"');
        check(
            "[192.168.20.21]",
            &format!("[{address}]"),
            &[&format!(
                "20:21 clusters[1].nodes[0].addresses[0]: `{seen}` {why}"
            )],
        );
    }
}

#[test]
fn agents() {
    check(
        "unix:/run/a.sock",
        "run/a.sock",
        &[
            "12:16 clusters[0].nodes[0].agent: `run/a.sock` is not the address of an agent: it begins neither with \
         `unix:/` nor with `https://` nor with `http://` | write `https://host:port`, `unix:/path` or `http://127.0.0.1:port`",
        ],
    );
    check(
        "unix:/run/a.sock",
        "http://192.168.15.21:7400",
        &[
            "12:16 clusters[0].nodes[0].agent: `http://192.168.15.21:7400` is not the address of an agent: plain `http` is \
         only for a loopback address such as `127.0.0.1` | write `https://host:port`, `unix:/path` or `http://127.0.0.1:port`",
        ],
    );
    check(
        "unix:/run/a.sock",
        "https://192.168.15.21:7400",
        &[
            "12:16 clusters[0].nodes[0].agent: an `https` agent accepts only clients with a certificate, and none is declared \
         | add `tls: {ca: …, cert: …, key: …}`",
        ],
    );
    check(
        "unix:/run/a.sock",
        "unix:/run/a.sock\n        agent_node_plane: unix:/run/a.sock",
        &[
            "13:27 clusters[0].nodes[0].agent_node_plane: the agent `unix:/run/a.sock` is given twice \
         | 12:16 clusters[0].nodes[0].agent: the first one is here",
        ],
    );
    check(
        "        agent_pod: [10.244.0.10]\n",
        "",
        &[
            "11:16 clusters[0].nodes[0].agent: an agent without `agent_pod` cannot be the target of pod probes \
         | add the addresses of the agent's pod as `agent_pod: […]`",
        ],
    );
    check(
        "links: all",
        "tls: {ca: ca.pem, cert: ''}",
        &[
            "26:6 tls.key: `key` is missing | add `key: …`",
            "26:25 tls.cert: `` is empty or has control characters",
        ],
    );
}
