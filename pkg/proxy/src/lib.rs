//! Services: ClusterIP, NodePort and session affinity in one nftables table.
