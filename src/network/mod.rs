//! Bridges, veth pairs, addresses, names, published ports, firewall.
