# demo and test do everything on a fresh machine: they install what is missing (Debian, as root), build and run.
PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
RELEASE := target/release
# rnet-cni is started several times for each container: without shared libraries that takes 0.2 ms less. Empty this where
# there is no static C library.
STATIC ?= -C target-feature=+crt-static
SMALL = $(CARGO) rustc --profile small --locked -p rnet-cni -- $(STATIC) && install target/small/rnet-cni $(RELEASE)/rnet-cni
VM := target/debug/rnet-vm
# Where systemd looks, whatever PREFIX is: units in /usr/local/lib are found too.
UNITDIR ?= $(PREFIX)/lib/systemd/system

.PHONY: all demo test bench lint fmt install uninstall

all:
	contrib/deps build
	$(CARGO) build --release --locked --workspace --exclude rnet-bench --exclude rnet-vm-tests --exclude rnet-cni
	$(SMALL)

# Two hosts with a br0 each on one LAN segment, in private namespaces.
demo:
	contrib/deps demo
	$(CARGO) build --release --locked -p netd -p rnet-cli -p rnet-shim
	BIN=$(CURDIR)/$(RELEASE) topologies/two-hosts-br0/demo.sh

# All tiers. Those on the real kernel need root and say so when they are left out.
test:
	contrib/deps test
	$(CARGO) build --locked --workspace
	$(CARGO) nextest run --locked --workspace --no-fail-fast
	@grep -ho 'skipped: [^<]*' target/nextest/default/junit.xml | sort | uniq -c | grep . || echo 'nothing was skipped'
	$(VM) with --limit 400 -- $(CARGO) nextest run --locked --workspace --no-fail-fast --profile vm \
		--ignore-default-filter -E "$$($(VM) filter)"
	@$(VM) skips

# Every promise with a figure, beside the others in the same run; writes PROMISES.md.
bench:
	contrib/deps bench
	$(CARGO) build --release --locked --workspace --exclude rnet-cni --exclude rnet-vm-tests
	$(SMALL)
	$(RELEASE)/rnet-bench --write PROMISES.md

lint:
	contrib/deps lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --locked check bans licenses sources

fmt:
	$(CARGO) fmt --all

install: all
	rm -rf target/generated
	$(RELEASE)/rnet-gen target/generated
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/rnet $(DESTDIR)$(UNITDIR)
	install -m 755 $(RELEASE)/netd $(RELEASE)/rnet $(RELEASE)/rnet-cni $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(RELEASE)/rnet-shim $(DESTDIR)$(PREFIX)/libexec/rnet
	sed 's|@BINDIR@|$(PREFIX)/bin|' contrib/netd.service >$(DESTDIR)$(UNITDIR)/netd.service
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 target/generated/man/man1/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 target/generated/man/man8/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -D -m 644 target/generated/completions/bash/rnet $(DESTDIR)$(PREFIX)/share/bash-completion/completions/rnet
	install -D -m 644 target/generated/completions/zsh/_rnet $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_rnet
	install -D -m 644 target/generated/completions/fish/rnet.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/rnet.fish
	install -D -m 644 contrib/netd.toml $(DESTDIR)$(PREFIX)/share/doc/rnet/netd.toml

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,netd rnet rnet-cni) $(DESTDIR)$(UNITDIR)/netd.service
	rm -rf $(DESTDIR)$(PREFIX)/libexec/rnet $(DESTDIR)$(PREFIX)/share/doc/rnet
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/rnet.1 $(DESTDIR)$(PREFIX)/share/man/man1/rnet-*.1
	rm -f $(DESTDIR)$(PREFIX)/share/man/man8/netd.8 $(DESTDIR)$(PREFIX)/share/man/man8/netd-*.8
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/rnet $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_rnet
	rm -f $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/rnet.fish
