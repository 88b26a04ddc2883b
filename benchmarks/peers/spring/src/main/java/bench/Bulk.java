package bench;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;

/** One _bulk request: each document with the id that stands in it; the answer has to be free of errors. */
final class Bulk {
    private static final byte[] BEFORE = "{\"create\":{\"_id\":\"".getBytes(StandardCharsets.UTF_8);
    private static final byte[] AFTER = "\"}}\n".getBytes(StandardCharsets.UTF_8);

    private final HttpClient client =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final URI uri =
            URI.create(
                    System.getenv("BENCH_SINK")
                            + "/"
                            + System.getenv("BENCH_INDEX")
                            + "/_bulk?filter_path=errors,items.*.error");
    private final ByteArrayOutputStream body = new ByteArrayOutputStream(1 << 19);

    void add(byte[] document) throws IOException {
        body.write(BEFORE);
        body.write(Identity.of(document).getBytes(StandardCharsets.UTF_8));
        body.write(AFTER);
        body.write(document);
        body.write('\n');
    }

    void send() throws IOException, InterruptedException {
        HttpRequest request =
                HttpRequest.newBuilder(uri)
                        .header("Content-Type", "application/x-ndjson")
                        .POST(HttpRequest.BodyPublishers.ofByteArray(body.toByteArray()))
                        .build();
        body.reset();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200 || !answer.body().equals("{\"errors\":false}")) {
            throw new IOException(answer.statusCode() + ": " + answer.body());
        }
    }
}
