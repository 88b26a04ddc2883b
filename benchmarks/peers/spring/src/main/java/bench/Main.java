package bench;

import com.rabbitmq.client.Channel;
import java.util.List;
import org.springframework.amqp.core.AcknowledgeMode;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.listener.SimpleMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.api.ChannelAwareBatchMessageListener;

/** Spring AMQP's batch listener: the container gathers, one request a batch, one ack for all of it. */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws Exception {
        int size = Integer.parseInt(System.getenv("BENCH_SIZE"));
        long age = Long.parseLong(System.getenv("BENCH_AGE_MS"));
        CachingConnectionFactory connections = new CachingConnectionFactory();
        connections.setUri(System.getenv("BENCH_BROKER"));
        Bulk bulk = new Bulk();
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
        container.setQueueNames(System.getenv("BENCH_QUEUE"));
        container.setConsumerBatchEnabled(true);
        container.setBatchSize(size);
        container.setBatchReceiveTimeout(age);
        container.setReceiveTimeout(age);
        container.setPrefetchCount(2 * size);
        container.setAcknowledgeMode(AcknowledgeMode.MANUAL);
        container.setMissingQueuesFatal(true);
        container.setMessageListener(
                new ChannelAwareBatchMessageListener() {
                    @Override
                    public void onMessageBatch(List<Message> messages, Channel channel) {
                        try {
                            for (Message message : messages) {
                                bulk.add(message.getBody());
                            }
                            bulk.send();
                            Message last = messages.get(messages.size() - 1);
                            channel.basicAck(last.getMessageProperties().getDeliveryTag(), true);
                        } catch (Exception failed) {
                            throw new IllegalStateException(failed);
                        }
                    }
                });
        container.afterPropertiesSet();
        container.start();
        Runtime.getRuntime().addShutdownHook(new Thread(container::stop));
        Thread.currentThread().join();
    }
}
