#!/bin/bash
# Builds the packages into packaging/out: .deb and .rpm of the agent, the receiver and the operator's command, for amd64 and
# arm64, with checksums, bills of materials and licences. The same commit gives the same bytes, wherever it is built: nothing
# goes in but the source, the toolchain that go.mod names, and the time of the commit.
#
#   package.sh [FOLDER]     default: packaging/out
#
# VERSION    of the packages; default: from git
# ARCHES     default: amd64 arm64
# FRESH      not empty: nothing comes from Go's build cache
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
go=${GO:-go}
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.2
out=$(realpath -m "${1:-packaging/out}")

# version is that of the last tag, and how far the commit is from it. Where there is no tag yet, 0.0.0.
version() {
	local described
	if described=$(git describe --tags --match 'v[0-9]*' 2>/dev/null); then
		echo "${described#v}" | sed -E 's/-([0-9]+)-g/+\1.g/; s/-/~/'
	else
		echo "0.0.0+$(git rev-list --count HEAD).g$(git rev-parse --short=8 HEAD)"
	fi
}
export PACKAGE_VERSION=${VERSION:-$(version)}
export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
module=$("$go" list -m)
flags=(-trimpath -buildvcs=false -ldflags "-s -w -buildid= -X $module/internal/daemon.version=$PACKAGE_VERSION")

rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/stage
mkdir "$stage"

GOBIN=$work "$go" install $nfpm
"$go" build -o "$work/bill" ./packaging/bill

# What is the same for all processors.
cp -r packaging/{units,sysusers.d,tmpfiles.d,etc,scripts,hooks,prometheus,grafana,nfpm} "$stage"
mkdir -p "$stage/doc"
cp LICENSE "$stage/doc/"
for command in agent receiver understudy; do
	source=./cmd/understudy-$command
	[ $command != understudy ] || source=./cmd/understudy
	CGO_ENABLED=0 "$go" run -tags docs "${flags[@]}" $source manual "$stage/manual/$command"
	gzip -n9 "$stage/manual/$command"/man/*
done
find "$stage" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
chmod 755 "$stage"/hooks/*/*

for arch in ${ARCHES:-amd64 arm64}; do
	echo "package: $PACKAGE_VERSION, $arch"
	rm -rf "$stage/bin"
	mkdir "$stage/bin"
	CGO_ENABLED=0 GOARCH=$arch "$go" build ${FRESH:+-a} "${flags[@]}" -o "$stage/bin/" ./cmd/understudy-agent ./cmd/understudy-receiver ./cmd/understudy
	"$work/bill" --version "$PACKAGE_VERSION" --epoch "$SOURCE_DATE_EPOCH" --out "$stage/doc" "$stage"/bin/*
	find "$stage" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
	for command in understudy-agent understudy-receiver understudy; do
		cp "$stage/doc/$command.cdx.json" "$out/${command}_${PACKAGE_VERSION}_$arch.cdx.json"
		for packager in deb rpm; do
			# Relative paths in the configuration are those of the stage.
			(cd "$stage" && PACKAGE_ARCH=$arch "$work/nfpm" package --config "nfpm/$command.yaml" --packager $packager --target "$out" >/dev/null)
		done
	done
done
cp "$stage"/doc/*.licences "$out/"
(cd "$out" && sha256sum -- * >SHA256SUMS)
ls -l "$out"
