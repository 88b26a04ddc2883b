package bench;

import co.elastic.clients.elasticsearch.core.bulk.BulkResponseItem;
import co.elastic.clients.elasticsearch.core.bulk.CreateOperation;
import co.elastic.clients.util.BinaryData;
import co.elastic.clients.util.ContentType;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.camel.Exchange;
import org.apache.camel.builder.AggregationStrategies;
import org.apache.camel.builder.RouteBuilder;
import org.apache.camel.model.ProcessorDefinition;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;

/**
 * Camel's aggregator between its RabbitMQ and its HTTP (or Elasticsearch) component. It acks a message
 * once it is aggregated, before it is written: there is no other way with this pattern.
 */
public final class Main {
    private static final byte[] BEFORE = "{\"create\":{\"_id\":\"".getBytes(StandardCharsets.UTF_8);
    private static final byte[] AFTER = "\"}}\n".getBytes(StandardCharsets.UTF_8);
    private static final String SINK = System.getenv("BENCH_SINK").replaceFirst("^http://", "");
    private static final String INDEX = System.getenv("BENCH_INDEX");
    private static final int SIZE = Integer.parseInt(System.getenv("BENCH_SIZE"));
    private static final long AGE = Long.parseLong(System.getenv("BENCH_AGE_MS"));

    private Main() {}

    public static void main(String[] args) throws Exception {
        org.apache.camel.main.Main main = new org.apache.camel.main.Main();
        CachingConnectionFactory connections = new CachingConnectionFactory();
        connections.setUri(System.getenv("BENCH_BROKER"));
        main.bind("connections", connections);
        boolean throughHttp = args[0].equals("http");
        main.configure().addRoutesBuilder(
                new RouteBuilder() {
                    @Override
                    public void configure() {
                        ProcessorDefinition<?> batches =
                                from("spring-rabbitmq:default?connectionFactory=#connections&autoDeclare=false&queues="
                                                + System.getenv("BENCH_QUEUE")
                                                + "&prefetchCount="
                                                + 2 * SIZE)
                                        .aggregate(constant(true), AggregationStrategies.groupedBody())
                                        .completionSize(SIZE)
                                        .completionInterval(AGE);
                        if (throughHttp) {
                            batches.process(Main::lines)
                                    .to("http://" + SINK + "/" + INDEX + "/_bulk")
                                    .process(Main::checkText);
                        } else {
                            batches.process(Main::operations)
                                    .to("elasticsearch:bench?operation=Bulk&hostAddresses=" + SINK + "&indexName=" + INDEX)
                                    .process(Main::checkItems);
                        }
                    }
                });
        main.run();
    }

    private static void lines(Exchange exchange) throws IOException {
        ByteArrayOutputStream body = new ByteArrayOutputStream(1 << 19);
        for (Object one : exchange.getMessage().getBody(List.class)) {
            byte[] document = (byte[]) one;
            body.write(BEFORE);
            body.write(Identity.of(document).getBytes(StandardCharsets.UTF_8));
            body.write(AFTER);
            body.write(document);
            body.write('\n');
        }
        exchange.getMessage().removeHeaders("*");
        exchange.getMessage().setHeader(Exchange.HTTP_METHOD, "POST");
        exchange.getMessage().setHeader(Exchange.HTTP_QUERY, "filter_path=errors,items.*.error");
        exchange.getMessage().setHeader(Exchange.CONTENT_TYPE, "application/x-ndjson");
        exchange.getMessage().setBody(body.toByteArray());
    }

    private static void checkText(Exchange exchange) throws IOException {
        String text = exchange.getMessage().getBody(String.class);
        if (!text.equals("{\"errors\":false}")) {
            throw new IOException(text);
        }
    }

    private static void operations(Exchange exchange) throws IOException {
        List<?> documents = exchange.getMessage().getBody(List.class);
        List<Object> operations = new ArrayList<>(documents.size());
        for (Object one : documents) {
            byte[] document = (byte[]) one;
            operations.add(
                    new CreateOperation.Builder<BinaryData>()
                            .id(Identity.of(document))
                            .document(BinaryData.of(document, ContentType.APPLICATION_JSON)));
        }
        exchange.getMessage().setBody(operations);
    }

    private static void checkItems(Exchange exchange) throws IOException {
        for (Object one : exchange.getMessage().getBody(List.class)) {
            if (((BulkResponseItem) one).error() != null) {
                throw new IOException(String.valueOf(one));
            }
        }
    }
}
