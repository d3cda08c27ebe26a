// Package packaging holds what turns the binary into a product: units, users,
// folders, the default configuration, maintainer scripts, and nfpm.yaml, which
// names every file of the .deb and the .rpm.
//
// scripts/packages builds the packages from it. The tests here build them too,
// compare every path, mode and owner with a golden list, and hold the default
// configuration against what the agent reads. There is nothing here to call.
package packaging
