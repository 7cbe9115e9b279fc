#!/bin/bash
# A single-node Apache Kafka without docker, until interrupted: for tests, the demo and development, not for a survey.
#
#   kafka.sh [DATA [PORT [CONTROLLER_PORT [ADVERTISED_PORT]]]]
#
# DATA keeps topics between runs (default: data/ beside this script). ADVERTISED_PORT is where clients are told to
# connect, for a proxy in between. Needs Java 17 and, the first time, Maven.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:-$here/data} port=${2:-9092} controller=${3:-$((port + 1))} advertised=${4:-$port}

for tool in java mvn; do
    command -v "$tool" >/dev/null || { echo "kafka.sh: $tool is missing: install Java 17 and Maven" >&2; exit 3; }
done

mkdir -p "$data"
data=$(cd "$data" && pwd)
exec 9<"$here/pom.xml" # two first runs at once: the second waits until the first has all jars
flock 9
if [ ! -f "$here/lib/complete" ]; then
    mvn -q -B --color=never -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$here/lib" >&2
    touch "$here/lib/complete"
fi
exec 9<&-

cd "$data"
cat >server.properties <<END
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$advertised
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=log
auto.create.topics.enable=false
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
offsets.retention.minutes=525600
log.cleaner.dedupe.buffer.size=4194304
END
if [ -f extra.properties ]; then cat extra.properties >>server.properties; fi # the last line of a name counts
kafka=(java -Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Djava.awt.headless=true
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dkafka.logs.dir=. -cp "$here/lib/*")
if [ ! -f log/meta.properties ]; then
    cluster=$(head -c16 /dev/urandom | base64 | tr '+/' 'ab' | cut -c1-22) # a leading - would be read as an option
    "${kafka[@]}" kafka.tools.StorageTool format --standalone -t "$cluster" -c server.properties >/dev/null
fi
echo "kafka.sh: Kafka on 127.0.0.1:$port, data in $data" >&2
exec "${kafka[@]}" kafka.Kafka server.properties
